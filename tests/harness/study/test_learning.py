"""Whether the best learns as well as the baseline: by seeds of its own, before it is called the best."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from harness.files.yaml_file import InputError
from harness.measure.record import Record
from harness.predict import plan as plans
from harness.predict.plan import Plan
from harness.report.finding import Finding, conclude
from harness.report.page.build import page
from harness.report.studies import ReportedStudy
from harness.report.terminal import summary, write_best
from harness.stats.inference import non_inferiority
from harness.study.best_trials import ranking
from harness.study.folder import Study
from harness.study.learning import learned
from harness.suite import schema
from harness.suite.schema import Learning
from harness.suite.sources import NOT_LEARNING, learning_digest, sources
from harness.trainers import evidence
from harness.trainers.trainer import Trainer, get
from tests.harness.fake_trainer import FakeTrainer
from tests.harness.study.test_search import Executed, sweep

SUITE = f"""\
name: proven
trainer: {__name__}:Forgetful
env: Fake
search: {{speed: [100, 200, 300]}}
baseline: {{speed: 100}}
measure: {{warmup_seconds: 0, seconds: 0.1, disturbed_retries: 0}}
confirm: {{top: 1, repeats: 6, learning: {{seeds: 4, env_steps: 500, margin: 10%, evaluate: 3}}}}
sampler: {{name: grid}}
limits: {{trials: 3, minutes: 5}}
"""
PENDULUM = """\
name: planted
trainer: appo
env: InvertedPendulum
fixed: {num_envs: 8, steps_per_env: 16, mode: sync, network.actor: [16], network.critic: [16], env_threads: 1,
        learner_threads: 1, learner_dtype: float32, algorithm.schedule: fixed, algorithm.num_mini_batches: 2}
search: {algorithm.num_learning_epochs: [12, 1], algorithm.learning_rate: [3.0e-3, 1.0e-9]}
baseline: {algorithm.num_learning_epochs: 12, algorithm.learning_rate: 3.0e-3}
pinned: {planted: {algorithm.num_learning_epochs: 1, algorithm.learning_rate: 1.0e-9}}
measure: {warmup_seconds: 0, seconds: 0.6, disturbed_retries: 0}
confirm: {top: 1, repeats: 1, learning: {seeds: 4, env_steps: 3000, evaluate: 2}}
sampler: {name: random}
limits: {trials: 2, minutes: 5}
"""


class Forgetful(FakeTrainer):
    """The faster it is the better it learns, up to a speed from which on it learns next to nothing."""

    def evaluate(self, settings, log_dir: Path, episodes: int) -> float:
        return 1000.0 + settings["seed"] if settings["speed"] < 300 else 100.0


class Blind(FakeTrainer):
    evaluate = Trainer.evaluate


def make(folder: Path, *overrides: str, text: str = SUITE) -> Plan:
    path = folder / "proven.yaml"
    path.write_text(text)
    return plans.make(path, overrides)


def seeds(records: list[Record]) -> list[tuple[int, int]]:
    return [(r.trial, r.repeat) for r in records if r.phase == "learning"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    folder = tmp_path_factory.mktemp("proven")
    plan = make(folder)
    with Study(plan.folder(folder)) as study:
        study.describe(plan, ["run"])
    sweep(plan, folder)
    return plan, plan.folder(folder)


def test_what_learns_worse_is_never_the_best_and_the_next_one_is_tried(measured) -> None:
    plan, folder = measured
    records = ReportedStudy(folder).records
    assert seeds(records) == [
        *((side, 2000 + seed) for seed in range(4) for side in (0, 2)), *((1, 2000 + seed) for seed in range(4))
    ], "the baseline's seeds are for both"  # fmt: skip
    assert {r.seed for r in records if r.phase == "learning"} == {2000, 2001, 2002, 2003}
    refused, best = (learned(records, plan.suite, trial) for trial in (2, 1))
    assert refused is not None and refused.verdict == "worse" and refused.value == pytest.approx(-0.967, abs=1e-3)
    assert best is not None and best.verdict == "as well" and best.value == 0.0
    assert ranking(records, plan.suite) == [1, 0]
    found = conclude(plan.suite, records)
    assert (found.best, found.learns, found.refused, found.candidates) == (1, "as well", (2,), 1)
    assert found.shown, "the gain of the next one is claimed at the level of one candidate"
    assert found.learning == (
        "It learns as well with speed=200: here 4 seeds beside 4 of the baseline, 500 env steps each: as well within "
        f"10% ({found.learning.partition('10% (')[2].partition(')')[0]}). Trial 2 is not the best, as it learns worse: "
        f"here 4 seeds beside 4 of the baseline, 500 env steps each: {found.learning.rpartition(': ')[2]}"
    )
    assert "+0.0%, 95 % interval" in found.learning and "worse (-96.7%, 95 % interval" in found.learning


def test_one_text_says_it_everywhere(measured) -> None:
    plan, folder = measured
    text = conclude(plan.suite, ReportedStudy(folder).records).learning
    with Study(folder) as study:
        path = write_best(plan, study)
        answer = summary(ReportedStudy(folder))["answer"]
    assert path is not None and f"# {text}\n" in path.read_text() and "speed: 200" in path.read_text()
    assert answer["learning"] == text and answer["learns"] == "as well" and answer["learned"]["verdict"] == "as well"
    shown = page(ReportedStudy(folder)).first_screen
    assert shown is not None and ("Learns as well", text) in shown.facts


def test_nothing_is_said_before_all_seeds_are_there_and_the_next_run_goes_on(tmp_path: Path) -> None:
    plan = make(tmp_path)
    whole = sweep(plan, tmp_path)
    records = [r for r in whole if r.trial != 1 or r.phase != "learning"]
    cut = [r for r in records if (r.phase, r.trial, r.repeat) != ("learning", 2, 2003)]
    seen = learned(cut, plan.suite, 2)
    assert seen is not None and (seen.verdict, seen.why) == ("cannot tell", "3 of 4 seeds a side are there")
    assert conclude(plan.suite, cut).learns == "cannot tell"
    file = plan.folder(tmp_path) / "trials.jsonl"
    file.write_text("".join(json.dumps(record.flat()) + "\n" for record in cut))
    executed = Executed()
    again = sweep(plan, tmp_path, executed)
    assert seeds(again)[-5:] == [(2, 2003), *((1, 2000 + seed) for seed in range(4))]
    assert len(executed.specs) == 5


def test_seeds_that_are_added_after_the_result_was_seen_count_as_another_look(tmp_path: Path) -> None:
    sweep(make(tmp_path, "search.speed=[100, 200]"), tmp_path)
    plan = make(tmp_path, "search.speed=[100, 200]", "confirm.learning.seeds=5")
    seen = learned(sweep(plan, tmp_path), plan.suite, 1)
    assert seen is not None and (len(seen.points), seen.level, seen.verdict) == (5, 0.025, "as well")
    other = make(tmp_path, "search.speed=[100, 200]", "confirm.learning.env_steps=600")
    assert other.study_id != plan.study_id, "seeds of two budgets do not compare"


def test_a_side_that_fails_more_often_learns_worse(measured) -> None:
    plan, folder = measured
    records = ReportedStudy(folder).records
    failed = [
        replace(r, state="failed") if (r.phase, r.trial, r.repeat) == ("learning", 1, 2001) else r for r in records
    ]
    seen = learned(failed, plan.suite, 1)
    assert seen is not None and seen.verdict == "worse"
    assert seen.why == "1 of its 4 seeds failed, 0 of the baseline's"


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("measure.target_return=5", "this suite's repeats learn anyway"),
        ("confirm.learning.margin=2", "less than 1"),
        ("confirm.learning.seed=2", "did you mean 'seeds'?"),
        (f"trainer={__name__}:Blind", "cannot be evaluated"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(InputError, match=words.replace("?", r"\?")):
        make(tmp_path, override)


def test_a_planted_configuration_that_learns_nothing_is_refused(tmp_path: Path) -> None:
    plan = make(tmp_path, text=PENDULUM)
    records = sweep(plan, tmp_path)
    planted = next(record.trial for record in records if record.pinned)
    seen = learned(records, plan.suite, planted)
    assert seen is not None and seen.verdict == "worse", "it is faster, and learns nothing"
    with Study(plan.folder(tmp_path)) as study:
        path = write_best(plan, study)
    assert path is not None and "num_learning_epochs: 12" in path.read_text()
    assert f"Trial {planted} is not the best, as it learns worse" in path.read_text()


def entry(**changes) -> dict:
    """Shipped evidence as the file has it, made up."""
    returns = {"HalfCheetah": {"baseline": [900.0, 1000.0, 1100.0], "setting": [910.0, 1010.0, 1110.0]}}
    known = {
        "trainer": "appo", "settings": {"learner_dtype": "bfloat16"}, "env_steps": 500_000, "episodes": 64,
        "margin": 0.1, "returns": returns, "difference": 0.01, "interval": [-0.05, 0.07], "verdict": "as well",
        "code": learning_digest(*get("appo").learning_code), "machine": "A CPU, 2 cores", "versions": "torch 2",
        "commit": "0123", "command": "python benchmarks/learns_as_well.py", "measured": "2026-11-22",
    }  # fmt: skip
    return known | changes


@pytest.fixture
def ship(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def write(*entries: dict) -> None:
        file = tmp_path / "table.json"
        file.write_text(json.dumps(entries))
        monkeypatch.setattr(evidence, "FILE", file)
        evidence.shipped.cache_clear()

    yield write
    evidence.shipped.cache_clear()


def claim(changed: dict, *learning: tuple[int, float], **asked) -> Finding:
    """Of a study of APPO in which ``changed`` was faster; ``learning``: trial and mean return of each seed."""
    suite = schema.parse(
        f"name: s\ntrainer: appo\nenv: HalfCheetah\nconfirm: {json.dumps({'learning': asked or None})}"
    )
    records = [
        Record("s", trial, 0, "complete", baseline=trial == 0, params=params, env_steps_per_second=speed)
        for trial, params, speed in ((0, dict.fromkeys(changed, "before"), 100.0), (1, changed, 130.0))
    ]
    for trial, value in learning:
        number = 2000 + sum(r.trial == trial and r.phase == "learning" for r in records)
        params = records[trial].params
        records.append(Record("s", trial, number, "complete", "learning", params=params, evaluated_return=value))
    return conclude(suite.suite, records)


def test_the_claim_quotes_what_is_shipped(ship) -> None:
    ship(entry())
    found = claim({"learner_dtype": "bfloat16", "learner_threads": 1})
    assert found.learns == "as well"
    assert found.learning == (
        "It learns as well with learner_dtype=bfloat16 learner_threads=1: shipped evidence on learner_dtype=bfloat16: "
        "as well within 10% (+1.0%, 95 % interval -5.0% to +7.0%, 3 seeds in HalfCheetah, 500,000 env steps each as "
        "the trainer comes, A CPU, 2 cores); learner_threads=1 changes rounding and policy lag alone."
    )
    found = claim({"learner_dtype": "bfloat16", "when_full": "drop_oldest"})
    assert (
        found.learns == "cannot tell" and "nothing that is shipped shows it for when_full=drop_oldest" in found.learning
    )
    ship(entry(), entry(settings={"when_full": "drop_oldest"}))
    found = claim({"learner_dtype": "bfloat16", "when_full": "drop_oldest"})
    assert found.learns == "as well" and "; each by itself, not together." in found.learning
    ship(entry(settings={"learner_dtype": "bfloat16", "when_full": "drop_oldest"}), entry(verdict="worse"))
    found = claim({"learner_dtype": "bfloat16", "when_full": "drop_oldest"})
    assert found.learns == "as well" and "worse" not in found.learning, "both together are known"


def test_what_shipped_evidence_shows_to_learn_worse_is_never_the_best(ship) -> None:
    ship(entry(verdict="worse"), entry(settings={"when_full": "drop_oldest"}))
    changed = {"learner_dtype": "bfloat16", "when_full": "drop_oldest"}
    found = claim(changed)
    assert (found.best, found.refused) == (0, (1,))
    assert "Trial 1 is not the best, as it learns worse: shipped evidence on learner_dtype=bfloat16: worse (" in (
        found.learning
    )
    seeds = [(side, 1000.0 + n) for n in range(10) for side in (0, 1)]
    assert claim(changed, *seeds, seeds=10).best == 1, "seeds here outweigh it"
    ship(entry(verdict="worse", code="0" * 8))
    assert claim(changed).best == 1, "it has expired"


def test_shipped_evidence_expires_with_the_code_that_learns(ship) -> None:
    ship(entry(code="0" * 8))
    found = claim({"learner_dtype": "bfloat16"})
    assert found.learns == "cannot tell"
    assert "learner_dtype=bfloat16: it was shown for an earlier version of the learning code" in found.learning


@pytest.mark.parametrize(
    ("trainer", "module"),
    [
        ("appo", "algos.torch.appo.runner"), ("appo", "ipc.rollout_ring_buffer"),
        ("sac", "algos.torch.offpolicy.runner"), ("sac", "ipc.replay_pipelines.choose"),
        ("td3", "algos.torch.offpolicy.td3"),
    ],
)  # fmt: skip
def test_what_learns_counts_as_a_whole(trainer: str, module: str) -> None:
    assert f"unilab.{module}" in sources((), get(trainer).learning_code, NOT_LEARNING)


def test_two_seeds_are_judged_by_the_shipped_spread(ship) -> None:
    ship(entry())
    asked = {"seeds": 2, "spread": 0.1}
    near = claim({"learner_dtype": "bfloat16"}, (0, 1000.0), (1, 950.0), (0, 1000.0), (1, 970.0), **asked)
    assert near.best == 1 and near.learns == "as well"
    assert near.learning.endswith("-4.0%, 95 % interval -23.6% to +15.6%, within the spread of shipped seeds.")
    far = claim({"learner_dtype": "bfloat16"}, (0, 1000.0), (1, 700.0), (0, 1000.0), (1, 800.0), **asked)
    assert (far.best, far.refused) == (0, (1,)) and "outside of the spread of shipped seeds" in far.learning


def test_two_seeds_a_side_are_trained_where_their_spread_is_known(ship, tmp_path: Path) -> None:
    text = "name: fast\ntrainer: appo\nenv: HalfCheetah\nsearch: {placement: auto}\nconfirm: {top: 1, repeats: 6}\n"
    ship()
    assert make(tmp_path, text=text).suite.confirm.learning is None, "two seeds alone say nothing"
    ship(entry())
    plan = make(tmp_path, text=text)
    assert plan.suite.confirm.learning == Learning(2, 500_000, 0.1, 64, 0.1)
    assert plan.again().learning == 4 and plan.learning_seconds(20_000.0) == pytest.approx(6 + 64 * 0.05 + 25)
    assert plan.learning_seconds(1_000.0) == pytest.approx(6 + 64 * 0.2 + 500), "a slow learner does not slow it"
    assert make(tmp_path, "env=Hopper", text=text).suite.confirm.learning is None
    assert make(tmp_path, "fixed.num_envs=128", text=text).suite.confirm.learning is None, "it learns otherwise"
    assert make(tmp_path, "fixed.learner_threads=1", text=text).suite.confirm.learning is not None


def test_auto_chooses_what_is_shown_to_learn_as_well_of_a_trainer_that_the_table_knows(ship, tmp_path: Path) -> None:
    text = "name: fast\ntrainer: {}\nenv: HalfCheetah\nsearch: {{placement: auto{}}}\n"

    def searched(trainer: str = "appo", stated: str = "") -> Plan:
        return make(tmp_path, text=text.format(trainer, stated))

    ship()
    assert searched().suite.search["num_slots"].choices == (1, 2, 4)
    ship(entry(code="0" * 8), entry(settings={"num_slots": 2}, verdict="cannot tell"))
    plan = searched()
    choices = {name: dimension.choices for name, dimension in plan.suite.search.items()}
    assert choices["learner_dtype"] == ("float32", "bfloat16"), "it has expired, and the claim says so"
    assert choices["num_slots"] == (1,) and choices["when_full"] == ("wait",)
    assert choices["learner_threads"] == (None, 1) and "cpu" in choices["learner_device"]
    why = "nothing shows that it learns as well"
    assert {f"num_slots: 2 ({why})", f"num_slots: 4 ({why})", f"when_full: drop_oldest ({why})"} <= {*plan.dropped}
    assert searched(stated=", num_slots: [1, 2]").suite.search["num_slots"].choices == (1, 2), "the suite says so"
    assert searched("sac").suite.search["pipeline"].choices == ("auto", "prefetch"), "the table does not know it"


def test_the_shipped_table_is_what_its_seeds_say() -> None:
    for one in evidence.shipped():
        sides = [(each["baseline"], each["setting"]) for each in one.returns.values()]
        seen = non_inferiority(sides, one.margin)
        assert (seen.value, tuple(seen.interval), seen.verdict) == (one.difference, one.interval, one.verdict)
        assert one.settings.keys() <= get(one.trainer).defaults().keys()
