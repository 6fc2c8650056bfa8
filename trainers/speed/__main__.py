"""The process that measures: a `Request` on standard input, lines on standard output."""

from __future__ import annotations

import os
import sys
import time
import traceback
from contextlib import redirect_stdout
from typing import TextIO

from trainers.run_folder.failures import told
from trainers.speed.request import Line, News, Refusal, Request, to_line

_NEWS_SECONDS = 0.5


def main() -> None:
    """Answer the request; whatever stands against it is an answer too."""
    output, request = sys.stdout, Request.model_validate_json(sys.stdin.read())
    with redirect_stdout(sys.stderr):
        news = _News(output)
        try:
            news("loading TRL")
            os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
            from trainers.speed.answer import answer

            said: Line = answer(request, news)
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


if __name__ == "__main__":
    main()
