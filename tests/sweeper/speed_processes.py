"""Processes that stand in for `trainers.speed` in tests, by the name in SPEED_ACT; each notes that it was started.

`python -m tests.sweeper.speed_processes`.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

from studies.records.speed import Ratio, Timings
from trainers.speed.request import Answer, News, Refusal, Request, to_line


def main() -> None:
    request, act = Request.model_validate_json(sys.stdin.read()), os.environ["SPEED_ACT"]
    with Path(os.environ["SPEED_NOTES"]).open("a") as notes:
        notes.write(f"{os.getpid()} {' '.join(request.runs)} {request.check}\n")
    same = Ratio(value=1.0, low=0.999, high=1.001)
    ratios = {name: same for name in request.runs if name != request.baseline}
    timings = Timings(ratios=ratios, null=same, rounds=50, seconds=1.0)
    _say(News(doing="the losses alone", left=9.0))
    if act == "die":
        os._exit(3)
    if act == "babble":
        sys.stdout.write("no line of this kind\n")
        sys.stdout.flush()
    if act == "hang":
        time.sleep(600)
    if act == "refuse":
        _say(Refusal(message="ValueError: no such thing\nat all"))
    answer = Answer(
        device="cpu",
        threads=1,
        step_seconds=0.02,
        losses=timings,
        steps=timings if request.check else None,
        failed={},
    )
    _say(answer)


def _say(line: News | Refusal | Answer) -> None:
    sys.stdout.write(to_line(line))
    sys.stdout.flush()


if __name__ == "__main__":
    main()
