"""What a process costs before it holds any data: the interpreter, the libraries, and what they set up when used.

That depends on the versions and on the machine, so it is measured: by training once, in the smallest size there is,
in a child, and reading what each of its processes holds. A few seconds, once for a machine and set of versions.
"""

import functools
import hashlib
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import psutil
import pydantic

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "numpy", "mujoco", "gymnasium", "tensorboard", "psutil", "pydantic")
TIMEOUT = 180.0
"""seconds"""


@dataclass(frozen=True)
class ProcessCost:
    """Bytes of one process of a run."""

    private: int
    """its own, whatever else runs"""
    libraries: int
    """pages of files; processes that load the same libraries share them"""


@dataclass(frozen=True)
class ProcessCosts:
    """Bytes of each kind of process that a run consists of."""

    learner: ProcessCost
    """also the only process of a synchronous run: it loads and sets up the same"""
    collector: ProcessCost
    tracker: ProcessCost
    """Python's resource tracker, which every run that shares memory starts"""


_COSTS = pydantic.TypeAdapter(ProcessCosts)

FALLBACK = ProcessCosts(
    learner=ProcessCost(private=234 * 2**20, libraries=116 * 2**20),
    collector=ProcessCost(private=161 * 2**20, libraries=109 * 2**20),
    tracker=ProcessCost(private=6 * 2**20, libraries=6 * 2**20),
)
"""where nothing can be measured: Linux x86-64, Python 3.11, torch 2.13 (CPU), mujoco 4.0, numpy 2.4"""


def measure_process_cost(*, refresh: bool = False) -> ProcessCosts:
    """The cost of each kind of process on this machine, from the user's cache or measured now.

    Where /proc does not say or the measuring run fails, the answer is ``FALLBACK``, with a warning.

    Args:
        refresh: measure even if the cache has an answer.
    """
    path = cache_path()
    if not refresh:
        try:
            return _COSTS.validate_json(path.read_bytes())
        except (OSError, ValueError):  # never measured, or a damaged file: measure
            pass
    if not Path("/proc/self/smaps_rollup").exists():
        return FALLBACK
    try:
        costs = _measure()
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        logger.warning("the fixed cost of a process could not be measured, constants are used: %s", detail[-2000:])
        return FALLBACK
    _write(path, json.dumps(asdict(costs)))
    return costs


def cache_path() -> Path:
    """The cache file of this machine and these versions."""
    return _cache_folder() / f"process-cost-{_key()}.json"


def _cache_folder() -> Path:
    configured = os.environ.get("XDG_CACHE_HOME")
    return (Path(configured) if configured else Path.home() / ".cache") / "unilab"


@functools.cache
def _key() -> str:
    """Changes with what changes the cost: the machine, the interpreter and the libraries."""
    versions = []
    for package in PACKAGES:
        try:
            versions.append(f"{package} {metadata.version(package)}")
        except metadata.PackageNotFoundError:  # an extra that is not installed
            continue
    words = (platform.node(), platform.machine(), platform.python_version(), sys.prefix, *versions)
    return hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]


def _write(path: Path, text: str) -> None:
    """Write beside and rename, as several runs may measure at once; a cache that cannot be written is no error."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}")
        beside.write_text(text)
        beside.replace(path)
    except OSError as error:
        logger.warning("the cost of a process is measured again next time: %s", error)


def _measure() -> ProcessCosts:
    """Train in the smallest size there is, and read what the processes hold."""
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run(
            [sys.executable, "-m", __name__, folder],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
    return _COSTS.validate_json(run.stdout.splitlines()[-1])


def read_process_cost(pid: int) -> ProcessCost:
    """What a process holds now; shared memory, which a budget counts elsewhere, is left out. Linux only."""
    fields = {}
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name.startswith("Rss"):
            fields[name] = int(value.split()[0]) * 1024
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    anonymous = next(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Pss_Anon:"))
    return ProcessCost(private=anonymous, libraries=fields["RssFile"])


def _children() -> Iterable[tuple[str, int]]:
    for child in psutil.Process().children():
        yield ("tracker" if "resource_tracker" in " ".join(child.cmdline()) else "collector"), child.pid


def _train_and_print(folder: str) -> None:
    """Entry of the measuring child: one line of JSON on standard output."""
    from unilab.algos.torch.appo.config import APPOConfig, NetworkConfig
    from unilab.algos.torch.appo.runner import APPORunner
    from unilab.run.progress import Progress

    costs: dict[str, dict[str, int]] = {}

    def look(progress: Progress) -> bool:
        if progress.iteration < 3:
            return True
        costs.update({kind: asdict(read_process_cost(pid)) for kind, pid in [("learner", os.getpid()), *_children()]})
        return False

    small = NetworkConfig(actor=(8,), critic=(8,))
    config = APPOConfig(
        mode="async",
        num_envs=4,
        steps_per_env=4,
        env_threads=1,
        inference_threads=1,
        learner_threads=1,
        network=small,
    )
    with APPORunner.from_config(config) as runner:
        runner.learn(5, log_dir=folder, on_iteration=look)
    print(json.dumps(costs))


if __name__ == "__main__":
    _train_and_print(*sys.argv[1:])
