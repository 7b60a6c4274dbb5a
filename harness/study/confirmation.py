"""The confirmation: in which order the best configurations and the baseline are measured again.

The winner of a noisy search is partly the luckiest. So the search looks at its best a second time (``looked_at``), and
by both looks it is decided who is a candidate. Then the candidates and the baseline are measured once more, in fresh
processes and in blocks (``harness.measure.engines.blocks.mirrored``). The order follows from the study's name, so that
a study that was interrupted goes on in it. Where a block's repeats can be alive together they take turns of a fraction
of a second in that order (``harness.measure.interleaving``): then what changes within seconds hits all alike.
"""

import itertools
from collections.abc import Iterable, Sequence

from harness.measure.engines.blocks import mirrored
from harness.measure.record import Record
from harness.suite.schema import Confirm

BASELINE = 0
"""the trial that is always measured first"""
Block = list[tuple[int, int]]
"""(trial, repeat) in the order to be measured"""


def schedule(
    confirm: Confirm,
    candidates: Sequence[int],
    records: Iterable[Record],
    *,
    study: str,
    first_repeat: int,
    baseline: bool = True,
) -> list[Block]:
    """The blocks in the order to be measured, repeats that have a record included.

    Args:
        candidates: trials other than the baseline.
        records: of the study. Candidates that joined after blocks were closed, as those of a search that was
            extended, get blocks of their own: the baseline of last week says nothing about them.
        study: its name, which decides about the order.
        first_repeat: number of the first repeat of a confirmation; that of a block is 2 higher than of the one before.
        baseline: False where it cannot be measured.
    """
    recorded = {(r.trial, r.repeat - first_repeat) for r in records if r.phase == "confirm"}
    closed = next(n for n in itertools.count() if not {(BASELINE, 2 * n), (BASELINE, 2 * n + 1)} <= recorded)
    # a candidate's repeats begin where they began, or in the first block that is not closed
    begins = {
        trial: min((number // 2 for other, number in recorded if other == trial), default=closed)
        for trial in candidates
    }
    last = max([*begins.values(), 0]) + confirm.blocks
    order = []
    for block in range(min(begins.values(), default=0), last):
        members = [trial for trial in candidates if begins[trial] <= block < begins[trial] + confirm.blocks]
        due = [trial for trial in members if 2 * (block - begins[trial]) + 1 < confirm.repeats]
        repeats = mirrored([*members, BASELINE] if baseline else members, f"{study} {block}", [*due, BASELINE])
        order.append([(trial, first_repeat + 2 * block + back) for trial, back in repeats])
    return order
