"""A trained policy as an ONNX file, for programs without PyTorch, such as that of a robot."""

import hashlib
import importlib.util
import json
import logging
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.onnx.errors import OnnxExporterError

from unilab.algos.torch.policy import FloatArray, Policy, restored
from unilab.envs import VecEnv
from unilab.errors import UserError, check_writable
from unilab.run.loop import plain, trainer_name

PACKAGES = ("onnx", "onnxscript", "onnxruntime")
CHECKED = 10_000
"""observations for which the file's actions are compared with PyTorch's"""
SPREAD = 5.0
"""standard deviations of the observations that were drawn, in those of the ones that were met"""
TOLERANCE = 1e-4
"""largest difference of an action, as a part of 1 + the usual size of that action (a small one may be the sum of
large numbers, and is rounded as they are); rounding makes some 1e-6"""
MOST_OTHER_CHOICES = 1e-3
"""part of the discrete actions that may be others: where two are equally good but for rounding"""
ENVS = 50
"""in which observations are met"""
REMEDY = (
    "No file was written. The network does what a file cannot hold, such as drawing random numbers, or choosing its "
    "computation by the numbers that it is given: change network.actor"
)


class ExportError(UserError):
    """The policy cannot be exported: why not, and what to do."""


def export_onnx(checkpoint: str | Path, path: str | Path, seed: int = 0) -> dict[str, Any]:
    """Write the policy of a checkpoint as ``eval`` plays it: the normalizer, the mode of the distribution, the bounds.

    The file's input ``obs`` [N, O] are observations of the environment, its output ``actions`` [N, A] what the
    environment is given, both float32. Its metadata say by whom and for what it was trained, and what the environment
    says in ``VecEnv.deployment``: texts as they are, everything else as JSON.

    The file is compared with PyTorch before it has its name: on 5,000 observations that the policy meets, and on 5,000
    drawn around them five times as far apart.

    Args:
        checkpoint: written by the ``learn`` of any runner of this package, or the folder with it.
        path: of the file; one that is there is replaced.
        seed: of the environments in which the observations are met.

    Returns:
        onnx, trainer, env, observations, difference (see ``TOLERANCE`` and ``MOST_OTHER_CHOICES``), metadata.

    Raises:
        CheckpointError: the checkpoint cannot be read, or its environment cannot be made here.
        UserError: the file cannot be written.
        ExportError: a package is missing, the network cannot be exported, or the file computes something else; there
            is no new file then.
    """
    if missing := [name for name in PACKAGES if importlib.util.find_spec(name) is None]:
        remedy = "pip install -e '.[onnx]' in this project's checkout"
        raise ExportError(f"an ONNX file needs {', '.join(missing)}, which this interpreter has not: {remedy}")
    path = Path(path)
    check_writable(path)
    with restored(checkpoint, ENVS, seed) as (policy, env, saved):
        metadata = _metadata(policy, env, saved["progress"])
        observations = _observations(policy, env, seed)
    unchecked = path.with_name(f"{path.name}.unchecked")
    try:
        _write(policy, metadata, unchecked)
        difference = _check(policy, unchecked, observations)
        unchecked.replace(path)
    finally:
        unchecked.unlink(missing_ok=True)
    return {
        "onnx": path, "trainer": metadata["trainer"], "env": metadata["env"], "observations": CHECKED,
        "difference": difference, "metadata": metadata,
    }  # fmt: skip


def _metadata(policy: Policy, env: VecEnv, progress: dict[str, Any]) -> dict[str, Any]:
    settings = plain(policy.config)
    text = json.dumps(settings, sort_keys=True)
    bounds = {} if env.num_actions else {"action_low": policy.action_low, "action_high": policy.action_high}
    return {
        "trainer": trainer_name(policy.config),
        "env": policy.config.env,
        "env_settings": settings["env_cfg"],
        "settings_digest": hashlib.sha256(text.encode()).hexdigest()[:16],
        "env_steps": progress["env_steps"],
        "num_actions": env.num_actions,
        **{name: [x if math.isfinite(x) else None for x in bound.tolist()] for name, bound in bounds.items()},
        **env.deployment(),
    }


def _observations(policy: Policy, env: VecEnv, seed: int) -> FloatArray:
    """[CHECKED, O]: the first half met by the policy, the second drawn around them."""
    obs, _ = env.reset(seed)
    met = [obs.copy()]
    while len(met) * env.num_envs < CHECKED // 2:
        met.append(env.step(policy(met[-1])).obs.copy())
    rows = np.concatenate(met)
    noise = np.random.default_rng(seed).standard_normal(rows.shape)
    return np.concatenate([rows, rows.mean(axis=0) + SPREAD * rows.std(axis=0) * noise]).astype(np.float32)


def _write(policy: Policy, metadata: dict[str, Any], path: Path) -> None:
    rows = torch.zeros(2, policy.obs_dim)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of torch's own deprecations
            # this one warns that torchvision is missing
            logging.getLogger("torch.onnx._internal.exporter._registration").setLevel(logging.ERROR)
            program = torch.onnx.export(
                policy.mode, (rows,), dynamo=True, verbose=False, input_names=["obs"], output_names=["actions"],
                dynamic_shapes=({0: torch.export.Dim("rows")},),
            )  # fmt: skip
    except OnnxExporterError as error:
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ExportError(
            f"network.actor: {policy.config.network.actor} cannot be exported: {reason}. torch.export has to follow "
            "it: no branches on the numbers in tensors, nothing that depends on the number of rows, no code of other "
            "libraries that compute"
        ) from error
    assert program is not None
    for name, value in metadata.items():
        program.model.metadata_props[name] = value if isinstance(value, str) else json.dumps(value)
    program.save(path, external_data=False)


def _check(policy: Policy, path: Path, observations: FloatArray) -> float:
    """How far the file's actions are from PyTorch's: the largest difference, as a part of 1 + the action's root mean
    square; or where actions are discrete the part of the choices that differ."""
    import onnxruntime
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    failures = (  # their only base is Exception
        errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.NotImplemented, errors.RuntimeException,
    )  # fmt: skip
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 3
    batches = (observations, observations[:1])  # as many as there are, and one, as a robot has it
    expected = np.concatenate([policy(rows) for rows in batches])
    try:
        session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        found = np.concatenate([session.run(["actions"], {"obs": rows})[0] for rows in batches])
    except failures as error:
        raise ExportError(
            f"ONNX Runtime {onnxruntime.__version__} cannot run the file: {error}. {REMEDY}, or install a newer "
            "onnxruntime"
        ) from error
    if policy.num_actions:
        difference, most = float((found != expected).mean()), MOST_OTHER_CHOICES
    else:
        usual = np.sqrt(np.square(expected).mean(axis=0))
        difference, most = float((abs(found - expected) / (1 + usual)).max()), TOLERANCE
    if not difference <= most:
        measure = "of the choices" if policy.num_actions else "of 1 + the usual size of an action"
        raise ExportError(
            f"the file does not compute what PyTorch does: the difference is {difference:.2g} {measure} on "
            f"{CHECKED:,} observations, above {most}. {REMEDY}"
        )
    return difference
