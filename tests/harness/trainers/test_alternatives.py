"""Several trainers in one study: what a suite says of them, what a trial runs, what the best one trains with."""

from pathlib import Path

import pytest

from harness.files.yaml_file import InputError, to_yaml
from harness.measure.engines.local import LocalEngine
from harness.measure.process import Outcome
from harness.measure.repeat import TrialSpec
from harness.measure.stop import StopSignal
from harness.predict import calibration
from harness.predict import plan as plans
from harness.predict.calibration import Ratio
from harness.predict.plan import Plan
from harness.report.terminal import write_best
from harness.runs import training
from harness.study.folder import Study
from harness.study.search import Sweep
from harness.suite import schema as suites
from harness.suite.schema import Variant
from harness.trainers.alternatives import Alternatives
from tests.harness.study.test_search import Quiet

SUITE = """\
name: duel
env: Fake
fixed: {seed: 7}
trainers:
  slow:
    trainer: tests.harness.fake_trainer:FakeTrainer
    settings: {speed: 20, inner.rate: 2.0}
  fast:
    trainer: tests.harness.fake_trainer:FakeTrainer
    settings:
      speed: 80
      host_bytes: 5000
measure: {warmup_seconds: 0.1, seconds: 0.2}
confirm: {top: 1, repeats: 2}
"""


def make(tmp_path: Path, *replacements: tuple[str, str]) -> Plan:
    text = SUITE
    for old, new in replacements:
        assert old in text
        text = text.replace(old, new)
    path = tmp_path / "duel.yaml"
    path.write_text(text)
    return plans.make(path)


def test_which_trainer_is_the_choice_and_the_first_is_the_baseline(tmp_path) -> None:
    plan = make(tmp_path)
    assert list(plan.space.dimensions) == ["trainer"] and plan.space.ends("trainer") == ("slow", "fast")
    assert plan.baseline == {"trainer": "slow"} and plan.trials == 2
    assert plan.fit({"trainer": "fast"}).host_bytes == 5000
    some = make(tmp_path, ("measure:", "search: {trainer: [fast]}\nmeasure:"))
    assert some.space.ends("trainer") == ("fast",) and some.baseline == {"trainer": "fast"}


def test_a_suite_reads_back_as_it_was_written(tmp_path) -> None:
    suite = make(tmp_path).suite
    assert suites.parse(to_yaml(suite.to_dict())).suite == suite
    assert "trainer" not in suite.to_dict() and "trainers" in suite.to_dict()


def test_one_run_measures_all_in_turns_and_the_best_can_be_trained(tmp_path) -> None:
    plan = make(tmp_path)
    ran: list[TrialSpec] = []

    def executed(spec: TrialSpec, *_: object) -> Outcome:
        ran.append(spec)
        return Outcome("complete", result={"env_steps_per_second": float(spec.settings["speed"])})

    with Study(plan.folder(tmp_path)) as study, StopSignal() as stop:
        Sweep(plan, study, stop, Quiet(), LocalEngine("here", stop, executed, in_turns=False)).run()
        best = write_best(plan, study)
        records = study.records.records
    speeds = [spec.settings["speed"] for spec in ran]
    assert speeds[:2] == [20, 80] and speeds[2:] in ([20, 80, 80, 20], [80, 20, 20, 80]), "search, then A B B A"
    assert ran[0].settings == {"env": "Fake", "seed": 7, "speed": 20, "inner.rate": 2.0}
    assert {spec.trainer for spec in ran} == {"tests.harness.fake_trainer:FakeTrainer"}
    assert [r.params["trainer"] for r in records[:2]] == ["slow", "fast"]
    job = training.load(best)
    assert job.settings["speed"] == 80 and job.settings["env"] == "Fake"


def test_one_setting_of_a_group_is_replaced_for_an_environment_without_the_others() -> None:
    general = {"algorithm": {"num_critics": 5, "gamma": 0.98}}
    trainer = Alternatives({"ours": Variant("sac", general, {"Hopper": {"algorithm": {"gamma": 0.995}}})})
    expected = {"algorithm.num_critics": 5, "algorithm.gamma": 0.995, "env": "Hopper", "seed": 7}
    assert trainer.resolve({"trainer": "ours", "env": "Hopper", "seed": 7}) == ("sac", expected)


@pytest.mark.parametrize(
    ("replacement", "line", "words"),
    [
        (("speed: 80", "sped: 80"), 11, "trainers.fast.settings.sped: unknown setting; did you mean 'speed'?"),
        (("speed: 80", "inner: {rate: 1.0}\n      inner.rate: 1.5"), 12, "inner.rate: is there twice, with dots and"),
        (("speed: 80", "speed: 0"), 11, "trainers.fast.settings.speed: Input should be greater than"),
        (("speed: 80", "seed: 80"), 11, "trainers.fast.settings.seed: is the same for all trainers"),
        (("speed: 80", "device: cuda:9"), 11, "trainers.fast.settings.device: "),
        (("    settings:\n", "    setings:\n"), 10, "unknown key; did you mean 'settings'?"),
        (("  fast:\n    trainer: tests", "  fast:\n    trainer: toasts"), 9, "No module named 'toasts'"),
        (("env: Fake", "env: Fake\ntrainer: appo"), 5, "there is a 'trainer' as well"),
        (("confirm:", "search: {trainer: [fast, fats]}\nconfirm:"), 14, "has no 'fats'; did you mean 'fast'?"),
        (("confirm:", "search: {speed: [1]}\nconfirm:"), 14, "has no such setting"),
    ],
)
def test_mistakes_are_found_with_their_line(tmp_path, replacement, line, words) -> None:
    with pytest.raises(InputError) as caught:
        make(tmp_path, replacement)
    assert words in str(caught.value) and f"duel.yaml:{line}: " in str(caught.value)


def test_mistakes_of_several_trainers_are_told_together(tmp_path) -> None:
    with pytest.raises(InputError) as caught:
        make(tmp_path, ("speed: 20", "sped: 20"), ("speed: 80", "speed: 0"))
    assert [(part.line, part.key) for part in caught.value.parts] == [
        (7, "trainers.slow.settings.sped"), (11, "trainers.fast.settings.speed")
    ]  # fmt: skip


def test_each_trainer_has_the_factor_of_its_own_past_runs(tmp_path) -> None:
    fake, other = "tests.harness.fake_trainer:FakeTrainer", "tests.harness.described_trainer:DescribedTrainer"
    fast = (f"  fast:\n    trainer: {fake}", f"  fast:\n    trainer: {other}")
    calibration.save({fake: [Ratio(1.1, "")] * 3, other: [Ratio(0.9, "")] * 3, "": [Ratio(1.2, "")] * 3}, tmp_path)
    make(tmp_path, fast)
    plan = plans.make(tmp_path / "duel.yaml", results=tmp_path)
    assert plan.fit({"trainer": "slow"}).expected_host_bytes == 1100
    assert plan.fit({"trainer": "fast"}).expected_host_bytes == 4500


def test_one_whose_package_is_missing_drops_out(tmp_path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tests.harness.trainers.adapters.fake_driver import FakeForeign

    monkeypatch.setattr(FakeForeign, "unilab_environments", False)
    fake = "tests.harness.trainers.adapters.fake_driver:FakeForeign"
    fast = ("  fast:\n    trainer: tests.harness.fake_trainer:FakeTrainer", f"  fast:\n    trainer: {fake}")
    here = make(tmp_path, fast, ("      host_bytes: 5000\n", ""))
    assert here.dropped == () and here.fit({"trainer": "fast"}).host_bytes == 0
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    gone = make(tmp_path, fast, ("      host_bytes: 5000\n", ""))
    assert gone.space.ends("trainer") == ("slow",)
    assert gone.dropped[0].startswith("trainer: fast (this interpreter has no json: pip install")
    missing = gone.fit({"trainer": "fast"})
    assert not missing.fits and "no json" in str(missing.problem)
