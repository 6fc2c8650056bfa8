"""What `sweeper run --detach` starts: a sweep in a process of its own, which takes its order from standard input."""

from __future__ import annotations

import os
import sys

import typer

from studies.text.redact import note_command, redact_output
from sweeper.cli.output import Output
from sweeper.cli.refusal import told
from sweeper.cli.shared import Reuse, RunRequest, load, run_sweep
from sweeper.commands.detached.order import Order, read


def main() -> None:
    """Run the sweep, and end with the exit code of `sweeper run`."""
    os.environ["PYTHONSAFEPATH"] = "1"
    redact_output()
    order = read(sys.stdin.buffer.read())
    note_command(order.words())
    try:
        with told(Output(None)):
            run_sweep(_wanted(order), order.verify, how=Reuse(yes=True, refresh=order.refresh, strict=order.strict))
    except typer.Exit as ended:
        sys.exit(ended.exit_code)


def _wanted(order: Order) -> RunRequest:
    """The sweep that was ordered. What can be checked before anything is written, whoever ordered it has checked."""
    return RunRequest(
        study=order.study,
        asked=load(order.study, list(order.settings), order.text),
        executor=order.executor,
        workers=order.workers,
        storage=order.storage,
        again=order.again,
        failed=order.failed,
        command=order.command,
        output=Output(None),
        text=order.text,
        in_own_process=True,
        settings=order.settings,
    )


if __name__ == "__main__":
    main()
