"""One seed for a run, and from it a stream of its own for everything that draws random numbers."""

import zlib

import numpy as np


def derive_seed(seed: int, purpose: str) -> int:
    """A 63-bit seed for ``purpose`` ("environment", "actions", ...): the same for the same two arguments,
    independent for different ones (NumPy's SeedSequence)."""
    sequence = np.random.SeedSequence([seed, zlib.crc32(purpose.encode())])
    return int(sequence.generate_state(1, np.uint64)[0] >> np.uint64(1))
