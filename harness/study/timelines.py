"""``--trace``: a timeline of each repeat, beside its log.

Recording costs some of the speed that is measured. So a study is measured with it as a whole or not at all, its
records say so (``traced``), and asv's history leaves it out. The study's identity stays that of its suite.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from harness.files.writing import RecordError
from harness.measure.record import Record
from harness.trainers.trainer import Trainer
from unilab.errors import UserError
from unilab.tracing.timeline_file import TRACE_FILE, discard_parts, merge, parts

ENABLED, FOLDER = "trace_enabled", "trace_output_dir"
"""the settings of a trainer that can be traced"""
VIEWER = "https://ui.perfetto.dev"


def check_trainer(trainer: Trainer) -> None:
    """Raises UserError when the trainer cannot be traced."""
    missing = [f"'{name}'" for name in (ENABLED, FOLDER) if name not in trainer.defaults()]
    if missing:
        raise UserError(f"--trace: the trainer has no setting {' and no '.join(missing)}; leave --trace out")


def check_study(records: Iterable[Record], trace: bool) -> None:
    """Raises UserError when the study has numbers that were measured the other way."""
    measured = [record for record in records if record.state == "complete"]
    if any(record.traced != trace for record in measured):
        how, remedy = ("without", "leave --trace out") if trace else ("with", "add --trace")
        raise UserError(
            f"this study was measured {how} --trace, and tracing costs some of the speed: {remedy} to go on with it, "
            "or take another --results DIR for a study of its own"
        )


def begin(folder: Path) -> dict[str, Any]:
    """The settings with which a run leaves its timeline in ``folder``; what an earlier one left there goes."""
    (folder / TRACE_FILE).unlink(missing_ok=True)
    discard_parts(folder)
    return {ENABLED: True, FOLDER: str(folder.absolute())}


def end(folder: Path) -> None:
    """Make the timeline of a run that was killed before it could.

    Raises:
        RecordError: it cannot be written.
    """
    if not parts(folder):
        return
    try:
        merge(folder)
    except OSError as error:
        raise RecordError(str(error)) from error
