"""The process that measures: a `Request` on standard input, lines on standard output."""

from __future__ import annotations

import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import redirect_stdout
from pathlib import Path
from typing import TextIO

from trainers.run_folder.failures import told
from trainers.speed.request import Answer, Line, News, Refusal, Request, to_line

_NEWS_SECONDS = 0.5


def main() -> None:
    """Answer the request; whatever stands against it is an answer too."""
    output, request = sys.stdout, Request.model_validate_json(sys.stdin.read())
    with redirect_stdout(sys.stderr):
        news = _News(output)
        try:
            news("loading TRL")
            said: Line = _answer(request, news)
        except Exception as error:
            traceback.print_exc()
            said = Refusal(message=told(error))
    _write(output, said)


def _write(output: TextIO, said: Line) -> None:
    output.write(to_line(said))
    output.flush()


class _News:
    """Tells what is done, at most every `_NEWS_SECONDS` of the same."""

    def __init__(self, output: TextIO) -> None:
        self._output = output
        self._last, self._at = "", 0.0

    def __call__(self, doing: str, left: float | None = None) -> None:
        if doing != self._last or time.monotonic() - self._at > _NEWS_SECONDS:
            self._last, self._at = doing, time.monotonic()
            _write(self._output, News(doing=doing, left=left))


def _answer(request: Request, news: _News) -> Answer:
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    import datasets
    import torch
    import transformers

    from trainers.speed.bench import make_bench
    from trainers.speed.measure import step_seconds, time_losses, time_steps
    from trainers.speed.rounds import clock_of

    datasets.disable_progress_bars()
    transformers.utils.logging.disable_progress_bar()
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)  # the time of one thread is measured
    news("loading model and data")
    bench = make_bench(request.runs, request.baseline, request.bf16, Path(request.folder))
    device, baseline = bench.trainer.args.device, request.baseline
    clock = clock_of(device)
    news("a whole step")
    step = step_seconds(bench, baseline, clock)
    tasks, failed = _sound(bench.losses(), baseline)
    losses = time_losses(tasks, baseline, step / bench.together, clock, news)
    steps = None
    if request.check:

        def of_round(number: int) -> Mapping[str, Callable[[], None]]:
            whole = bench.whole_steps(bench.batches[number % len(bench.batches)])
            return {name: whole[name] for name in tasks}

        steps = time_steps(of_round, baseline, request.check, clock, news)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    return Answer(
        device=name, threads=torch.get_num_threads(), step_seconds=step, losses=losses, steps=steps, failed=failed
    )


def _sound(
    tasks: Mapping[str, Callable[[], None]], baseline: str
) -> tuple[dict[str, Callable[[], None]], dict[str, str]]:
    """The tasks that can be done, and why the others cannot. Raises what the baseline's does."""
    failed = {}
    for name, task in tasks.items():
        try:
            task()
        except (ValueError, RuntimeError, TypeError, AttributeError, KeyError) as error:
            if name == baseline:
                raise
            failed[name] = told(error)
    return {name: task for name, task in tasks.items() if name not in failed}, failed


if __name__ == "__main__":
    main()
