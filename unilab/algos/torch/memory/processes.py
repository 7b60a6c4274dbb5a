"""What a process costs beside its data: the interpreter, the libraries, threads, and what the C allocator keeps.

That depends on the versions and on the machine, so it is measured by trainings in a child (``rehearsal``) and
remembered. The measuring takes some seconds, once for a machine and its versions.
"""

import functools
import hashlib
import inspect
import json
import logging
import os
import platform
import subprocess
import sys
import tempfile
from collections.abc import Collection
from contextlib import suppress
from dataclasses import asdict, dataclass
from importlib import metadata
from pathlib import Path

import pydantic

from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.offpolicy.config import OffPolicyConfig
from unilab.ipc.latest import LatestValue, mailbox_bytes
from unilab.ipc.memory_budget import HOST, MIB, SHM, BudgetItem, pages, place_of
from unilab.machine import user_cache

logger = logging.getLogger(__name__)

PACKAGES = ("torch", "numpy", "mujoco", "gymnasium", "tensorboard", "psutil", "pydantic")
TIMEOUT = 180.0
"""seconds"""

CUDA_CONTEXT_DEVICE = 512 * MIB
"""an assumption on the safe side of what is usual, not measured"""
CUDA_CONTEXT_HOST = 512 * MIB
"""driver and libraries in the process: an assumption, not measured"""
CUBLAS_WORKSPACE = 2 * 32 * MIB
"""cuBLAS and cuBLASLt, at the size that NVIDIA recommends for compute capability 9.0; 4 MiB each on older ones"""
RAY_PROCESSES = 300 * MIB
"""Ray's own processes on a machine with one node (Ray 2.60, measured without a dashboard)"""
RAY_LIBRARY = 30 * MIB
"""that Ray adds to the learner's process and to each worker's (likewise)"""


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
    """Python's resource tracker, which every run with a process of its own for collecting starts"""
    thread: int
    """of each learner thread beyond the first: stack, allocator arena, scratch memory"""
    kept: float
    """what blocks of several sizes take over their sum, as the C allocator keeps the freed ones apart"""


_COSTS = pydantic.TypeAdapter(ProcessCosts)

FALLBACK = ProcessCosts(
    learner=ProcessCost(private=234 * MIB, libraries=116 * MIB),
    collector=ProcessCost(private=161 * MIB, libraries=109 * MIB),
    tracker=ProcessCost(private=6 * MIB, libraries=6 * MIB),
    thread=4 * MIB,
    kept=1.4,
)
"""where nothing can be measured: Linux x86-64, Python 3.11, torch 2.13 (CPU), mujoco 4.0, numpy 2.4"""


def measure_process_cost() -> ProcessCosts:
    """The cost of each kind of process on this machine, from the user's cache or measured now.

    Where /proc does not say or the measuring run fails, the answer is ``FALLBACK``, with a warning.
    """
    with suppress(ValueError):  # never measured, or a damaged file: measure
        return _COSTS.validate_json(user_cache.read(cache_name()) or "")
    if not Path("/proc/self/smaps_rollup").exists():
        return FALLBACK
    logger.info("measuring what a process takes on this machine, once: about 15 s")
    try:
        costs = _measure()
    except (OSError, subprocess.SubprocessError, ValueError, IndexError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        logger.warning("the fixed cost of a process could not be measured, constants are used: %s", detail[-2000:])
        return FALLBACK
    user_cache.write(cache_name(), json.dumps(asdict(costs)))
    return costs


@functools.cache  # a plan asks for each of a thousand configurations, and a version is read from a file
def cache_name() -> str:
    """The name under which the costs are kept (``unilab.machine.user_cache``). It changes with everything that may
    change the costs, and with the fields of ``ProcessCosts``."""
    words = ["gradients of each step, loaded without a look for garbage", platform.node(), platform.machine()]
    words += [platform.python_version(), sys.prefix]
    for package in PACKAGES:
        with suppress(metadata.PackageNotFoundError):  # an extra that is not installed
            words.append(f"{package} {metadata.version(package)}")
    key = hashlib.sha256("\n".join(words).encode()).hexdigest()[:16]
    return f"process-cost-{key}.json"


def _measure() -> ProcessCosts:
    with tempfile.TemporaryDirectory() as folder:
        run = subprocess.run(
            [sys.executable, "-m", f"{__package__}.rehearsal", folder],
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
    return _COSTS.validate_json(run.stdout.splitlines()[-1])


def read_process_cost(pid: int) -> ProcessCost:
    """What a process holds now; shared memory, which a budget counts elsewhere, is left out. Linux only."""

    def told(file: str, name: str) -> int:
        lines = Path(f"/proc/{pid}/{file}").read_text().splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{name}:"))

    return ProcessCost(private=told("smaps_rollup", "Pss_Anon"), libraries=told("status", "RssFile"))


def process_items(config: APPOConfig | OffPolicyConfig, costs: ProcessCosts, learner_threads: int) -> list[BudgetItem]:
    """What the processes of a run cost before they hold any data, and what they report through.

    Args:
        learner_threads: the busy ones of the learner's process.
    """
    collectors, kind, devices = 1, "collector", {config.learner_device}
    if isinstance(config, OffPolicyConfig):
        collectors, kind = config.workers.here, config.workers.kind
    elif config.mode == "sync":
        kind, devices = "sequential", devices | {config.collector_device}
    processes: dict[str, tuple[ProcessCost, Collection[str]]] = {"learner process": (costs.learner, devices)}
    items = []
    if kind in ("collector", "processes"):
        processes["resource tracker"] = (costs.tracker, ())
    if kind == "collector":
        processes["collector process"] = (costs.collector, {config.collector_device})
        metrics = mailbox_bytes(inspect.signature(LatestValue).parameters["capacity"].default)
        items.append(BudgetItem("mailbox", SHM, pages(metrics, 8), "the newest metrics, and a counter of steps"))
    elif kind != "sequential" and collectors:
        private = costs.collector.private + (RAY_LIBRARY if kind == "ray" else 0)
        processes["worker processes"] = (ProcessCost(collectors * private, costs.collector.libraries), ())
    if kind == "processes":
        items.append(BudgetItem("mailbox", SHM, collectors * pages(8), "a counter of steps of each worker"))
    if kind == "ray":
        processes["Ray"] = (ProcessCost(RAY_LIBRARY + (RAY_PROCESSES if collectors else 0), 0), ())
    for name, (cost, used) in processes.items():
        items.append(BudgetItem(name, HOST, cost.private, "interpreter and libraries, private part"))
        for device in sorted(device for device in used if device.startswith("cuda")):
            items += [
                BudgetItem(f"CUDA in {name}", HOST, CUDA_CONTEXT_HOST, "driver and libraries; not measured"),
                BudgetItem("CUDA context", place_of(device), CUDA_CONTEXT_DEVICE, "not measured"),
                BudgetItem("cuBLAS workspace", place_of(device), CUBLAS_WORKSPACE, "as documented"),
            ]
    libraries = max(cost.libraries for cost, _ in processes.values())
    return [
        *items,
        BudgetItem("libraries", HOST, libraries, "pages that the processes share"),
        BudgetItem("threads", HOST, costs.thread * (learner_threads - 1), "stacks, arenas, scratch of the learner's"),
    ]
