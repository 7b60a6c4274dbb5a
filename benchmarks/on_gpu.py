"""The first minutes on a machine with a GPU: the tests that need one, then what it does a second.

    python benchmarks/on_gpu.py --minutes 9 --out DIR

Run it from a checkout; it needs no network and no installation of the project. Each part's figures are appended to
``DIR/records.jsonl`` when it ends, and ``DIR/on_gpu.md`` is one table of them. Run it again with the same DIR, and it
goes on where it stopped: a part that is complete is not run again, one that failed comes last. A part that would end
too late is skipped, and the table says so. Without a GPU everything runs on the CPU with tiny sizes (``--dry`` asks for
that anywhere): the figures mean nothing then. Records of another machine are left alone.

The tests are those of the files that ask whether CUDA is there. An update of APPO is an optimizer step. Trainings are
measured over a steady window, in env steps that were trained on. Memory of the device is predicted before the run,
then measured: the peak of PyTorch's allocator in the learner's process, and that of all that began with this process.
"""

import argparse
import dataclasses
import faulthandler
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # the processes that are spawned get it from here

Figure = tuple[str, float, str]  # what, how much, of which unit
MIB = 2**20
NEEDS_CUDA = "torch.cuda.is_available()"  # what a test file asks that has tests for a GPU
SLACK = 20.0  # seconds beyond the last minute before the process is ended with a dump of its stacks


@dataclass(frozen=True)
class Sizes:
    """How much is done: seconds of each short measurement, and of the warm-up and the steady window of a training;
    rows of SAC's batches and of APPO's minibatches; bytes that are copied; settings."""

    device: str
    seconds: float
    warmup: float
    window: float
    batches: tuple[int, ...]
    rows: tuple[int, ...]
    copied: tuple[int, ...]
    appo: Mapping[str, Any]
    sac: Mapping[str, Any]
    used_before: int = 0  # bytes of the device, by other programs


GPU = Sizes(
    device="cuda", seconds=1.0, warmup=6.0, window=14.0, batches=(256, 1024, 4096, 16384, 65536),
    rows=(1024, 8192, 65536), copied=(64 * 1024, 64 * MIB), appo={"num_envs": 4096, "steps_per_env": 32},
    sac={"num_envs": 256, "batch_size": 8192, "learning_starts": 50, "updates_per_step": 8},
)  # fmt: skip
DRY = Sizes(
    device="cpu", seconds=0.02, warmup=0.0, window=0.2, batches=(16,), rows=(64,), copied=(1024,),
    appo={"num_envs": 4, "steps_per_env": 8, "mode": "sync"},
    sac={"num_envs": 4, "batch_size": 16, "learning_starts": 5, "replay_capacity": 1000,
         "workers": {"kind": "sequential"}},
)  # fmt: skip


def rate(work: Callable[[], object], seconds: float, device: str) -> float:
    """How often ``work`` is done a second; what it queues on the device is waited for at the end."""
    import torch

    wait = (lambda: None) if device == "cpu" else partial(torch.cuda.synchronize, device)
    for _ in range(8):  # kernels are chosen, updates recorded
        work()
    wait()
    began, count = time.perf_counter(), 0
    while time.perf_counter() - began < seconds:
        work()
        count += 1
    wait()
    return count / (time.perf_counter() - began)


def run_tests(sizes: Sizes, seconds: float) -> list[Figure]:
    """Every test file with tests for CUDA; dry, they are collected only. Failures are an error: they run again."""
    files = [path for path in sorted((ROOT / "tests").rglob("test_*.py")) if NEEDS_CUDA in path.read_text()]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={report}"]
        command += [*(["--collect-only"] if sizes.device == "cpu" else []), *map(str, files)]
        there = {"cwd": ROOT, "env": os.environ | {"PYTHONPATH": str(ROOT)}}
        done = subprocess.run(command, timeout=0.6 * seconds, capture_output=True, text=True, **there)
        print(done.stdout[-6000:], done.stderr[-2000:], file=sys.stderr)
        if done.returncode not in (0, 1) or not report.exists():
            raise RuntimeError(f"pytest ended with {done.returncode}: {(done.stdout + done.stderr)[-300:]}")
        cases = list(ElementTree.parse(report).iter("testcase"))
    failed = [case.get("name", "") for case in cases if {"failure", "error"} & {part.tag for part in case}]
    if failed:
        raise RuntimeError(f"{len(failed)} of {len(cases)} tests failed: {', '.join(failed)}")
    skipped = sum(case.find("skipped") is not None for case in cases)
    return [("files", len(files), ""), ("passed", len(cases) - skipped, ""), ("skipped", skipped, "")]


def copies(sizes: Sizes, seconds: float) -> list[Figure]:
    """Between host and device, of ordinary and of page-locked memory."""
    import torch

    figures: list[Figure] = []
    for size in sizes.copied:
        there = torch.zeros(size, dtype=torch.uint8, device=sizes.device)
        for pinned in (False,) if sizes.device == "cpu" else (False, True):
            here = torch.zeros(size, dtype=torch.uint8, pin_memory=pinned)
            kind = f"{size // 1024} KiB, {'page-locked' if pinned else 'ordinary'}"
            for way, to, of in (("to the device", there, here), ("to the host", here, there)):
                copies_per_second = rate(partial(to.copy_, of, non_blocking=pinned), sizes.seconds / 4, sizes.device)
                figures.append((f"{way}, {kind}", copies_per_second * size / 1e9, "GB/s"))
    return figures


def sac_updates(sizes: Sizes, seconds: float, *, dtype: str) -> list[Figure]:
    """SAC's updates by batch size, recorded as CUDA graphs and not."""
    import torch

    from unilab.algos.torch.offpolicy.config import SACConfig
    from unilab.algos.torch.offpolicy.sac import SAC
    from unilab.settings import parse

    figures: list[Figure] = []
    for size in sizes.batches:
        shapes = {"obs": (size, 17), "next_obs": (size, 17), "actions": (size, 6)}
        batch = {name: torch.rand(shape, device=sizes.device) for name, shape in shapes.items()}
        batch |= {name: torch.zeros(size, device=sizes.device) for name in ("rewards", "dones", "truncated")}
        for graphs in (True, False):
            settings = {"batch_size": size, "learner_device": sizes.device, "learner_dtype": dtype,
                        "algorithm.cuda_graphs": graphs, "algorithm.policy_frequency": 1}  # fmt: skip
            with closing(SAC(parse(SACConfig, settings), 17, 6)) as learner:
                updates = rate(partial(learner.update, batch), sizes.seconds, sizes.device)
                learner.metrics()  # raises where they are not finite
            figures.append((f"batch {size}, {'recorded' if graphs else 'not recorded'}", updates, "updates/s"))
    return figures


def appo_steps(sizes: Sizes, device: str, dtype: str, rows: int, threads: int) -> float:
    """Optimizer steps a second of APPO, with minibatches of ``rows``."""
    import torch

    from unilab.algos.torch.appo.config import APPOConfig
    from unilab.algos.torch.appo.runner import build_learner
    from unilab.envs import EnvDims
    from unilab.ipc.rollout_ring_buffer import slot_fields
    from unilab.settings import parse

    epochs, minibatches, steps, dims = 2, 4, 16, EnvDims(17, 6, 0)
    settings = {"learner_device": device, "learner_dtype": dtype, "learner_threads": threads}
    settings |= {"algorithm": {"num_learning_epochs": epochs, "num_mini_batches": minibatches}}
    shapes = slot_fields(max(1, rows * minibatches // steps), steps, dims.obs, dims.action, dims.critic)
    rollout = {name: torch.randn(shape, device=device) for name, shape in shapes.items()}
    rollout |= {name: (rollout[name] > 2.5).float() for name in ("dones", "truncated")}
    rollout["log_probs"].sub_(9.0)
    with closing(build_learner(parse(APPOConfig, settings), dims)) as learner:
        return rate(lambda: learner.update(rollout), sizes.seconds, device) * epochs * minibatches


def appo_updates(sizes: Sizes, seconds: float, *, dtype: str) -> list[Figure]:
    """APPO's optimizer steps by minibatch size, each update's preparation included."""
    return [(f"minibatch {rows}", appo_steps(sizes, sizes.device, dtype, rows, 1), "updates/s") for rows in sizes.rows]


def data_parallel(sizes: Sizes, seconds: float) -> list[Figure]:
    """APPO's optimizer steps on the CPU: 64 rows for each of so many threads, and all of them for one thread."""
    from unilab.algos.torch.appo.config import ROWS_PER_THREAD
    from unilab.machine.devices import usable_cores

    cores = usable_cores()
    figures: list[Figure] = []
    for threads in sorted({max(1, cores // 4), max(1, cores // 2), cores}):
        rows = threads * ROWS_PER_THREAD
        several, one = (appo_steps(sizes, "cpu", "float32", rows, count) for count in (threads, 1))
        figures += [(f"{threads} threads", several, "updates/s"), (f"{threads} over 1", several / one, "times")]
    return figures


def training(sizes: Sizes, seconds: float, *, trainer: str, changes: Mapping[str, Any]) -> list[Figure]:
    """A short training with the learner on the device: its throughput, and memory predicted and measured."""
    import torch

    from harness.measure.peak_memory import PeakMemory
    from harness.trainers import trainer as trainers

    on_device = sizes.device != "cpu"
    possible = {name: value for name, value in changes.items() if on_device or name == "learner_dtype"}
    settings = {"env": "HalfCheetah", "learner_device": sizes.device, **getattr(sizes, trainer), **possible}
    chosen = trainers.get(trainer)
    budget = chosen.budget(settings)
    assert budget is not None  # it is predicted for each trainer of ours
    most_used = 0
    points: list[Any] = []

    def note(progress: Any) -> bool:
        nonlocal most_used
        points.append((time.perf_counter(), progress))
        if on_device and len(points) % 16 == 1:
            free, total = torch.cuda.mem_get_info()
            most_used = max(most_used, total - free - sizes.used_before)
        return points[-1][0] - points[0][0] < sizes.warmup + sizes.window

    if on_device:
        torch.cuda.empty_cache()  # of the parts before
        torch.cuda.reset_peak_memory_stats(sizes.device)
    with tempfile.TemporaryDirectory() as folder, closing(PeakMemory(os.getpid())) as memory:
        chosen.run(settings, note, log_dir=Path(folder), max_iterations=10**9, max_seconds=seconds)
        memory.sample()
    steady = [point for point in points if point[0] - points[0][0] >= sizes.warmup]
    if len(steady) < 2:
        raise RuntimeError(f"{len(points)} iterations: no steady window; give it more --minutes")
    (began, first), (ended, last) = steady[0], steady[-1]
    counters = (("env_steps", "env steps/s"), ("updates", "updates/s"), ("learner_busy_seconds", "of the time"))
    figures: list[Figure] = [
        *((name, (getattr(last, name) - getattr(first, name)) / (ended - began), unit) for name, unit in counters),
        ("policy lag", last.policy_lag_mean, "versions"),
        ("host memory predicted", budget.host_bytes / MIB, "MiB"),
        ("host memory measured", memory.peak.host / MIB, "MiB"),
    ]
    if on_device:
        figures += [
            ("device memory predicted", budget.device_bytes / MIB, "MiB"),
            ("device memory, learner's allocator", torch.cuda.max_memory_reserved(sizes.device) / MIB, "MiB"),
            ("device memory measured", most_used / MIB, "MiB"),
        ]
    return figures


DTYPES = ("float32", "bfloat16")
TRAININGS: tuple[tuple[str, str, Mapping[str, Any]], ...] = (
    ("appo", "float32", {}),
    ("appo", "bfloat16", {"learner_dtype": "bfloat16"}),
    ("appo", "collector on the device", {"collector_device": "cuda"}),
    ("sac", "replay on the device", {"pipeline": "device"}),
    ("sac", "prefetched", {"pipeline": "prefetch"}),
    ("sac", "bfloat16", {"learner_dtype": "bfloat16"}),
)
PARTS: dict[str, tuple[float, Callable[[Sizes, float], list[Figure]]]] = {
    "tests": (90, run_tests),
    "copies": (8, copies),
    **{f"sac updates, {dtype}": (30, partial(sac_updates, dtype=dtype)) for dtype in DTYPES},
    **{f"appo updates, {dtype}": (15, partial(appo_updates, dtype=dtype)) for dtype in DTYPES},
    **{f"{trainer} training, {name}": (35, partial(training, trainer=trainer, changes=changes))
       for trainer, name, changes in TRAININGS},
    "data-parallel threads": (20, data_parallel),
}  # fmt: skip
"""seconds that each takes on a GPU, about, and what it does"""


def read(path: Path, machine: str) -> list[dict[str, Any]]:
    """The records of a machine; a line that was cut off is left out."""
    records = []
    for line in path.read_text().splitlines() if path.exists() else ():
        with suppress(json.JSONDecodeError):
            records.append(json.loads(line))
    return [record for record in records if record["machine"] == machine]


def table(newest: Mapping[str, Mapping[str, Any]], machine: str) -> str:
    """One Markdown table: a line for each figure, and one for each part that failed or was not run."""
    lines = [machine, "", "| part | what | figure | unit |", "|---|---|---:|---|"]
    for part in PARTS:
        record = newest.get(part, {"state": "skipped", "error": "too few of the minutes were left, or it was left out"})
        if record["state"] == "complete":
            for what, value, unit in record["figures"]:
                text = f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
                lines.append(f"| {part} | {what} | {text} | {unit} |")
        else:
            why = record.get("error", "its process ended with it").replace("|", "/").replace("\n", " ")
            lines.append(f"| {part} | {record['state']}: {why} | | |")
    return "\n".join(lines) + "\n"


def sizes_and_machine(dry: bool) -> tuple[Sizes, str]:
    """How much is to be done here, and the machine in a line."""
    import torch

    from unilab.machine.devices import usable_cores
    from unilab.machine.nvidia_smi import query

    if dry or not torch.cuda.is_available():
        sizes, name = DRY, f"{platform.machine()}, a dry run on the CPU: the figures mean nothing"
    else:
        used = [int(row[0]) for row in query("gpu", "memory.used") if row[0].isdigit()]  # before we use CUDA ourselves
        sizes = dataclasses.replace(GPU, used_before=used[0] * MIB if used else 0)
        name = torch.cuda.get_device_name()
    return sizes, f"{name}; {usable_cores()} cores; torch {torch.__version__}, CUDA {torch.version.cuda}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=9.0, help="for everything; default: 9")
    parser.add_argument("--out", type=Path, required=True, help="folder of the records and the table")
    parser.add_argument("--dry", action="store_true", help="tiny sizes on the CPU, also where there is a GPU")
    parser.add_argument("--leave-out", action="append", default=[], choices=list(PARTS), metavar="PART", help="a part")
    options = parser.parse_args()
    ends = time.monotonic() + 60 * options.minutes
    from harness.trainers.trainer import calm_thread_pools

    calm_thread_pools()
    sizes, machine = sizes_and_machine(options.dry)
    options.out.mkdir(parents=True, exist_ok=True)
    path = options.out / "records.jsonl"

    def write(**record: Any) -> None:
        with path.open("a") as file:
            file.write("\n" + json.dumps(record))  # behind a line that was cut off too

    before = read(path, machine)
    attempts = [record["part"] for record in before if record["state"] == "begun"]
    done = {record["part"] for record in before if record["state"] == "complete"}
    for part in sorted((name for name in PARTS if name not in done | set(options.leave_out)), key=attempts.count):
        usual, work = PARTS[part]
        left = ends - time.monotonic()
        if left < (usual if sizes.device != "cpu" else 1):
            print(f"{part}: skipped, {max(0.0, left):.0f} s are left and it takes about {usual:.0f}", flush=True)
            continue
        write(part=part, state="begun", machine=machine)
        faulthandler.dump_traceback_later(left + SLACK, exit=True, file=sys.__stderr__)
        began = time.monotonic()
        try:
            record: dict[str, Any] = {"state": "complete", "figures": work(sizes, left)}
        except Exception as error:  # noqa: BLE001 - the other parts are to run; it is recorded, and printed here
            traceback.print_exc()
            record = {"state": "failed", "error": f"{type(error).__name__}: {str(error)[:500]}"}
        write(part=part, machine=machine, seconds=time.monotonic() - began, **record)
        print(f"{part}: {record['state']} after {time.monotonic() - began:.1f} s", flush=True)
        if "CUDA error" in record.get("error", ""):  # no later call in this process would succeed
            again = [f"--minutes={max(0.0, ends - time.monotonic()) / 60}", f"--out={options.out}"]
            again += [f"--leave-out={name}" for name in (*options.leave_out, part)]
            os.execv(sys.executable, [sys.executable, __file__, *again])
    faulthandler.cancel_dump_traceback_later()
    newest = {record["part"]: record for record in read(path, machine)}
    (options.out / "on_gpu.md").write_text(table(newest, machine))
    print(table(newest, machine))
    raise SystemExit(any(record["state"] == "failed" for record in newest.values()))


if __name__ == "__main__":
    main()
