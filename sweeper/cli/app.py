"""The command line: parse, call, print. Knows no Optuna, MLflow or torch; heavy modules load inside the commands."""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

import typer

from dashboards.live.doors.mlflow_command import SAFE_PATH
from studies.text.redact import note_command, redact_output
from sweeper.cli.output import Output
from sweeper.cli.refusal import told
from sweeper.cli.verbs.keeping import ls, open_run, rm
from sweeper.cli.verbs.preparing import check_data, doctor, init, plan
from sweeper.cli.verbs.results import evaluate, records, report, status, table, ui
from sweeper.cli.verbs.running import pause, resume, retry, run, stop, take, wait
from sweeper.cli.verbs.sharing import export
from sweeper.cli.verbs.tuning import tune
from sweeper.cli.verbs.working import worker


class _Commands(typer.core.TyperGroup):
    """The commands, which know the secrets among their words before they complain of any."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        note_command(args)
        ctx.obj = Output.asked_by(args)
        with told(ctx.obj) if args else nullcontext():  # without any it shows its help
            return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with told(ctx.obj), ctx.obj.alone():
            return super().invoke(ctx)


app = typer.Typer(
    cls=_Commands,
    help="Which DPO loss, with which settings, for my model and my data?",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)


# In the order in which `sweeper --help` lists them.
_READING = (status, table, report, records, evaluate, export, ui)
_STEERING = (stop, pause, resume, take)
for command in (tune, init, check_data, plan, run, retry, wait, *_STEERING, *_READING, ls, rm, worker, doctor):
    app.command()(command)
app.command("open")(open_run)


def main() -> None:
    """Entry point of the command `sweeper`."""
    os.environ |= SAFE_PATH
    redact_output()
    app()
