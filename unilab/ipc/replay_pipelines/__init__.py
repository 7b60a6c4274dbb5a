"""How sampled batches reach the learner's device: ``build_pipeline`` chooses among three ways with one interface."""

from unilab.ipc.replay_pipelines.choose import build_pipeline
from unilab.ipc.replay_pipelines.pipeline import ReplayPipeline

__all__ = ["ReplayPipeline", "build_pipeline"]
