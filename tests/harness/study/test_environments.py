"""One study of several environments: what is measured in each, in pieces, and how the baseline stands there."""

import json
import shutil
from pathlib import Path

import pytest

from harness.files.yaml_file import InputError, to_yaml
from harness.measure.engines import local
from harness.measure.engines.local import LocalEngine
from harness.measure.record import Record
from harness.measure.stop import StopSignal
from harness.predict import plan as plans
from harness.predict.plan import Plan
from harness.report.finding import standing_claim, standings
from harness.report.page.build import page
from harness.report.page.comparison import labels
from harness.report.page.first_screen import final_policies
from harness.report.page.write import html, markdown
from harness.report.studies import ReportedStudy
from harness.report.terminal import show, summary, write_best
from harness.study.folder import Study
from harness.study.search import Sweep
from harness.suite import schema as suites
from harness.trainers.trainer import Trainer
from tests.harness.fake_trainer import FakeTrainer
from tests.harness.study.test_search import Executed, Quiet

FAKE = "tests.harness.fake_trainer:FakeTrainer"
SUITE = f"""\
name: tasks
envs: [Near, Far]
trainers:
  ours: {{trainer: {FAKE}, settings: {{speed: 80}}}}
  theirs:
    trainer: {FAKE}
    settings: {{speed: 20}}
    by_env:
      Far: {{speed: 200}}
objectives: [evaluated_return]
measure: {{warmup_seconds: 0, return_at: {{seconds: 0.1}}, repeats: 5, evaluate: 3, disturbed_retries: 0}}
sampler: {{name: grid}}
limits: {{trials: 4, minutes: 5}}
"""


class Blind(FakeTrainer):
    """Has nothing that plays without noise."""

    evaluate = Trainer.evaluate


def make(tmp_path: Path, *overrides: str, text: str = SUITE) -> Plan:
    path = tmp_path / "tasks.yaml"
    path.write_text(text)
    return plans.make(path, overrides)


def sweep(plan: Plan, results: Path, cores: int | None = None) -> tuple[list[Record], int]:
    """All records, and how many repeats were left for the next run."""
    with Study(plan.folder(results)) as study, StopSignal() as stop:
        study.describe(plan, ["run"])
        engine = LocalEngine("here", stop, Executed(), in_turns=False, cores=cores)
        search = Sweep(plan, study, stop, Quiet(), engine)
        search.run()
        return study.records.records, search.missing["repeats"]


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Plan, Path]:
    folder = tmp_path_factory.mktemp("tasks")
    plan = make(folder)
    sweep(plan, folder)
    return plan, plan.folder(folder)


def test_each_configuration_is_measured_in_each_environment_with_its_settings(measured) -> None:
    plan, folder = measured
    records = ReportedStudy(folder).records
    assert len(records) == 2 * 2 * 5 and {r.state for r in records} == {"complete"}
    returns = {(r.params["env"], r.params["trainer"]): r.evaluated_return for r in records if r.seed == 4}
    assert returns == {
        ("Near", "ours"): 804.03, ("Near", "theirs"): 204.03, ("Far", "ours"): 804.03, ("Far", "theirs"): 2004.03
    }  # fmt: skip
    assert {r.params["env"] for r in records if r.baseline} == {"Near", "Far"}
    assert {r.params["trainer"] for r in records if r.baseline} == {"ours"}
    assert suites.parse(to_yaml(plan.suite.to_dict())).suite == plan.suite


def test_the_baseline_is_ahead_where_seeds_tell(measured) -> None:
    plan, folder = measured
    found = standings(plan.suite, ReportedStudy(folder).records)
    assert {env: [one.verdict for one in own] for env, own in found.items()} == {
        "Near": [None, "better"], "Far": [None, "worse"]
    }  # fmt: skip
    theirs = found["Near"][1]
    assert theirs.ahead == 600 and theirs.p == 2 / 252 and theirs.value == 202.03
    assert theirs.interval is not None and 200 < theirs.interval.low < 202.03 < theirs.interval.high < 205
    count, claim = standing_claim(plan.suite, found)
    assert count == 1
    assert claim.startswith("ours is ahead of all others, beyond noise, in Near, and behind one of them in Far;")


def test_the_page_has_curves_and_final_policies_of_each(measured) -> None:
    shown = page(ReportedStudy(measured[1]))
    assert (screen := shown.first_screen) is not None and (screen.headline, screen.claim[:4]) == ("1", "ours")
    assert [chart.id for chart in screen.charts] == ["standing-0", "standing-1"]
    sections = [section.id for section in shown.sections]
    assert sections[:3] == ["standings", "curves-0", "curves-1"] and "settings" not in sections
    assert shown.sections[2].title == "Learning curves: Far"
    assert [chart.id for chart in shown.sections[1].charts] == ["curve-0_wall_seconds", "curve-0_env_steps"]
    assert {row["name"] for row in shown.data["curve_0_env_steps"]} == {"ours", "theirs"}
    assert "played 3 whole episodes" in shown.sections[0].text[0]
    rows = [[cell.text for cell in row] for row in shown.sections[0].tables[0].rows]
    assert [row[:2] for row in rows] == [["Near", "ours"], ["Near", "theirs"], ["Far", "ours"], ["Far", "theirs"]]
    assert rows[1][2] == "202" and rows[1][7] == "5 of 5"
    assert [row[5:7] for row in rows[:2]] == [["the baseline", "\N{EN DASH}"], ["ahead", "600"]]
    for text in (html(shown), markdown(shown)):
        assert "not told apart" not in text and "behind, -1,200" in text


def test_the_numbers_of_an_environment_have_columns_of_their_own(measured, tmp_path: Path) -> None:
    records = shutil.copytree(measured[1], tmp_path / measured[1].name) / "trials.jsonl"
    judged = {"judged.repeats": 7.0, "judged.success": 1.0}
    lines = [json.dumps(json.loads(line) | judged) for line in records.read_text().splitlines()]
    records.write_text("\n".join([*lines, ""]))
    (table,) = final_policies(ReportedStudy(records.parent)).tables
    first = dict(zip(table.columns, (cell.text for cell in table.rows[0]), strict=True))
    assert (first["repeats"], first["repeats (judged)"], first["success"]) == ("5 of 5", "7", "1")


def test_who_never_reached_the_target_is_said_to_not_have_reached_it(measured, tmp_path: Path) -> None:
    folder = shutil.copytree(measured[1], tmp_path / measured[1].name)
    suite = (folder / "suite.yaml").read_text().replace("  target_return:", "  target_return: 700")
    suite = suite.replace("evaluated_return, direction: maximize", "seconds_to_return, direction: minimize")
    (folder / "suite.yaml").write_text(suite)
    lines = [json.loads(line) for line in (folder / "trials.jsonl").read_text().splitlines()]
    for line in lines:
        line["seconds_to_return"] = 0.05 if line["params.trainer"] == "ours" else None
    (folder / "trials.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (table,) = final_policies(ReportedStudy(folder)).tables
    near = [[cell.text for cell in row] for row in table.rows[:2]]
    assert [row[1:3] for row in near] == [["ours", "0.05"], ["theirs", "not reached"]] and near[1][7] == "0 of 5"


def test_studies_of_one_name_have_views_of_different_names(measured, tmp_path: Path) -> None:
    folder = measured[1]
    copy = shutil.copytree(folder, tmp_path / folder.parent.name / folder.name)
    names = labels([view for study in (folder, copy) for view in ReportedStudy(study).by_task])
    assert names == [f"{study} in {task}" for study in (folder, copy) for task in ("Near", "Far")]


def test_the_terminal_and_programs_are_told_of_each(measured, capsys: pytest.CaptureFixture[str]) -> None:
    from harness.report.live import console

    plan, folder = measured
    with Study(folder) as study:
        assert write_best(plan, study) is None, "each environment has another best"
    show(ReportedStudy(folder), console())
    content = summary(ReportedStudy(folder))
    environments, answer = content["environments"], content["answer"]
    assert (answer["best"], answer["baseline"], answer["change"]) == (None, None, None) and "Far" in answer["claim"]
    assert content["importances"] == {}
    assert [one["verdict"] for one in environments["Far"]] == [None, "worse"]
    said = capsys.readouterr().out
    assert "Near" in said and "ahead, +600" in said and "behind one of them in Far" in said


def test_it_is_measured_in_pieces_however_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(local, "core_sets", lambda size: [[0], [1]])
    plan = make(tmp_path, "limits.minutes=0.0001", "measure.repeats=3")
    left = [sweep(plan, tmp_path, cores=1)[1] for _ in range(7)]
    assert left == [10, 8, 6, 4, 2, 0, 0], "one in each of two places"
    records, _ = sweep(plan, tmp_path)
    assert sorted((r.trial, r.repeat) for r in records) == [(trial, n) for trial in range(4) for n in range(3)]


@pytest.mark.parametrize(
    ("old", "new", "line", "words"),
    [
        ("envs: [Near, Far]", "envs: [Near, Near]", 2, "expected different environments"),
        ("envs: [Near, Far]", "envs: [Near, Far]\nenv: Near", 2, "there is an 'env' as well"),
        ("envs: [Near, Far]\n", "", None, "env: is missing"),
        ("Far: {speed", "Fra: {speed", 9, "unknown environment; did you mean 'Far'"),
        ("Far: {speed", "Far: {sped", 9, "did you mean 'speed'"),
        ("sampler: {name: grid}", "sampler: {name: tpe}", 12, "every configuration is measured in each: expected grid"),
        ("sampler:", "confirm: {top: 1}\nsampler:", 12, "not ranked together, so leave it out"),
        ("sampler:", "search: {env: [Near]}\nsampler:", 12, "or several by 'envs'"),
        ("evaluate: 3", "evaluate: null", 10, "measured only with measure.evaluate: EPISODES"),
        ("evaluate: 3", "evaluate: 3, cores: 99999", 11, "99999 cores were asked for"),
        (FAKE, f"{__name__}:Blind", 11, "cannot be evaluated"),
    ],
)
def test_mistakes_are_found_with_their_line(tmp_path: Path, old: str, new: str, line: int | None, words: str) -> None:
    assert old in SUITE
    with pytest.raises(InputError) as caught:
        make(tmp_path, text=SUITE.replace(old, new))
    assert words in str(caught.value)
    assert line is None or f"tasks.yaml:{line}: " in str(caught.value)
