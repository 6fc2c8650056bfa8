"""The command line: parse, call, print. Knows no Optuna, MLflow or torch; heavy modules load inside the commands."""

from __future__ import annotations

import errno
import os
import sys
from contextlib import nullcontext
from typing import Any

import typer

from dashboards.live.doors.mlflow_command import SAFE_PATH
from studies.text.redact import note_command, redact_output
from sweeper.cli.output import Output
from sweeper.cli.refusal import refuse, told
from sweeper.cli.verbs.keeping import ls, open_run, restore, rm
from sweeper.cli.verbs.preparing import check_data, doctor, init, plan
from sweeper.cli.verbs.results import evaluate, records, report, status, table, ui
from sweeper.cli.verbs.running import pause, resume, retry, run, stop, take, wait
from sweeper.cli.verbs.sharing import export
from sweeper.cli.verbs.tuning import tune
from sweeper.cli.verbs.working import worker

_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class _Commands(typer.core.TyperGroup):
    """The commands, which know the secrets among their words before they complain of any."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        note_command(args)
        ctx.obj = Output.asked_by(args)
        with told(ctx.obj) if args else nullcontext():  # without any it shows its help
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with told(ctx.obj), ctx.obj.alone():
            problem = _problem_of_folder()
            if problem is not None:
                refuse([problem])
            return super().invoke(ctx)


def _problem_of_folder() -> str | None:
    """Why nothing can be kept in the working folder, None where it can."""
    try:
        os.getcwd().encode()
    except OSError as error:
        return f"The working folder cannot be found ({error.strerror}): go into one that is there."
    except UnicodeEncodeError:
        return "The path of the working folder is no UTF-8 text, as addresses of databases are: rename it."
    return None


app = typer.Typer(
    cls=_Commands,
    help="Which DPO loss, with which settings, for my model and my data?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


# In the order in which `sweeper --help` lists them.
_READING = (status, table, report, records, evaluate, export, ui)
_STEERING = (stop, pause, resume, take)
for command in (tune, init, check_data, plan, run, retry, wait, *_STEERING, *_READING, ls, restore, rm, worker, doctor):
    app.command()(command)
app.command("open")(open_run)


def _open_streams() -> None:
    """Open what who started the process has closed, to nothing: the first database would else be standard output."""
    for descriptor, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest that is free
        if getattr(sys, name) is None:
            stream = open(descriptor, mode, closefd=False)  # noqa: SIM115
            setattr(sys, name, stream)
            setattr(sys, f"__{name}__", stream)  # it lives as long as what is laid around it


def main() -> None:
    """Entry point of the command `sweeper`."""
    os.environ |= SAFE_PATH
    _open_streams()
    redact_output()
    try:
        app()
    except OSError as error:
        if error.errno not in _FULL or error.filename is not None:
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what waits to be printed is not tried again at the exit
        typer.echo(f"error: what was to be printed could not be written: {error.strerror}.", err=True)
        raise SystemExit(1) from None
