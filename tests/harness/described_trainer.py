"""A fake trainer that describes its rounds: its costs are stated, so predictions can be computed by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

from harness.trainers.rounds import Cost, Course, Limit, Part, Remedy, Workload
from tests.harness.fake_trainer import FakeTrainer


class DescribedTrainer(FakeTrainer):
    """A round makes ``speed`` env steps, which cost the collector 1 ms each and the learner 2 ms each, on one core."""

    def workload(self, settings: Mapping[str, Any], cores: int) -> Workload:
        speed = settings.get("speed", 100)
        mode = settings.get("mode", "async")
        parts = (Part("collector", "step", speed, {"mode": mode}), Part("learner", "learn", speed, {}))
        course: Course = "turns" if mode == "sync" else "wait"
        return Workload(parts, course, speed, 20, 20 * speed, yields=cores == 1)

    def measure_alone(self, part: Part) -> Cost:
        if part.size == 13:
            raise ValueError("no cost for 13")
        milliseconds = {"step": 1, "learn": 2}[part.kind] * part.size
        return Cost(milliseconds / 1000, milliseconds / 1000)

    def remedies(self, limit: Limit) -> Sequence[Remedy]:
        return (Remedy("speed", "lower {}"),) if limit == "learner" else ()
