from pathlib import Path

import pytest

from harness.predict import plan as plans
from harness.predict.plan import Plan

SUITE = """\
name: fake
trainer: tests.harness.fake_trainer:FakeTrainer
env: Fake
search:
  speed: [10, 20, 40, 80]
baseline: {speed: 20}
measure: {warmup_seconds: 0.1, seconds: 0.2, disturbed_retries: 0}
limits: {trials: 3, minutes: 5, trial_timeout_seconds: 30, progress_timeout_seconds: 30}
"""


@pytest.fixture
def suite_file(tmp_path: Path) -> Path:
    path = tmp_path / "fake.yaml"
    path.write_text(SUITE)
    return path


@pytest.fixture
def make_plan(suite_file: Path):
    def make(*overrides: str) -> Plan:
        return plans.make(suite_file, overrides)

    return make
