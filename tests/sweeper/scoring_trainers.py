"""An evaluator of adapters for tests: gold is the number that stands in the run's folder, and what else it is told."""

from __future__ import annotations

import runpy

from studies.records import JUDGE_FACT, Cause, Measurement, RunConfig, RunResult, Shown
from trainers.interface import Job, WorkQueue
from trainers.run_folder.results import write_result


class Scores:
    """Measures what `adapter/gold.txt` says; a run whose file holds no number is refused."""

    def train(self, job: Job, desk: WorkQueue) -> None:
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


class Trains:
    """Trains nothing: its adapter is its beta. The study's judge, a function, says what so long a sample is worth; the
    margin hangs on the evaluator's version.
    """

    def train(self, job: Job, desk: WorkQueue) -> None:
        beta = float(job.config.settings["beta"])
        adapter = job.folder / "adapter"
        if job.keep_adapter:
            adapter.mkdir(parents=True)
            (adapter / "beta.txt").write_text(repr(beta))
        result = _judged(job.config, beta)
        write_result(job.folder, result)
        desk.finish(result)


class Measures:
    """Measures an adapter of `Trains` again."""

    def train(self, job: Job, desk: WorkQueue) -> None:
        desk.finish(_judged(job.config, float((job.folder / "adapter" / "beta.txt").read_text())))


def _judged(config: RunConfig, beta: float) -> RunResult:
    judge = config.evaluation.judge
    assert judge is not None
    assert judge.function is not None
    module, _, name = judge.function.partition(":")
    try:
        (gold,) = runpy.run_path(f"{module}.py")[name](prompts=["?"], completions=["x" * round(100 * beta)])
    except ZeroDivisionError as error:
        return RunResult(key=config.key, cause=Cause.REFUSED, message=f"the judge raised {error}")
    margin = beta + int(config.evaluator.rpartition("-")[2].partition(".")[0])
    values = {"gold": gold, "gold_per_token": gold / 100, "margin": margin, "ranking_gain": beta, "kl": 1.0}
    return RunResult(
        key=config.key,
        cause=Cause.FINISHED,
        measurements=tuple(Measurement(name, value, 0.5, 12, (value, value)) for name, value in values.items()),
        facts={JUDGE_FACT: judge.name, "evaluator": config.evaluator},
        samples=(Shown(prompt="?", before="", after="x", gold_after=gold),),
    )
