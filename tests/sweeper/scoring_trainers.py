"""An evaluator of adapters for tests: gold is the number that stands in the run's folder, and what else it is told."""

from __future__ import annotations

from studies.records import JUDGE_FACT, Cause, Measurement, RunResult, Shown
from trainers.interface import Desk, Job


class Scores:
    """Measures what `adapter/gold.txt` says; a run whose file holds no number is refused."""

    def train(self, job: Job, desk: Desk) -> None:
        config = job.config
        assert config.evaluation.judge is not None
        text = (job.folder / "adapter" / "gold.txt").read_text()
        try:
            gold = float(text)
        except ValueError:
            desk.finish(RunResult(key=config.key, cause=Cause.REFUSED, message=f"the judge cannot read {text}"))
            return
        measurements = (
            Measurement("gold", gold, 0.25, 12, (gold - 1.0, gold + 1.0)),
            Measurement("gold_per_token", gold / 10.0, 0.025, 12),
            Measurement("margin", gold, 0.1, 12),
            Measurement("kl", 1.0, 0.1, 12),
        )
        facts = {JUDGE_FACT: config.evaluation.judge.name, "reference_gold": -0.5}
        samples = (Shown(prompt="a", before="b", after="c", gold_after=gold),)
        desk.finish(
            RunResult(key=config.key, cause=Cause.FINISHED, measurements=measurements, facts=facts, samples=samples)
        )
