"""The words that several commands take: a study, a setting, an executor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from sweeper.cli import completion

if TYPE_CHECKING:
    pass


StudyName = Annotated[
    str,
    typer.Argument(
        metavar="STUDY", help="path of a study file, or the name of a shipped study", autocompletion=completion.studies
    ),
]


Variant = Annotated[str, typer.Argument(help="name of a variant")]


Set = Annotated[list[str] | None, typer.Option("--set", metavar="KEY=VALUE", help="change a key, as base.max_steps=60")]


Executor = Annotated[
    str,
    typer.Option(
        help="process (warm worker processes), inline (this process), slurm (jobs) or hosts (that come by themselves)"
    ),
]


Workers = Annotated[int | None, typer.Option(min=1, help="worker processes  (default: a GPU each, else a core)")]


Storage = Annotated[
    str | None,
    typer.Option(
        envvar="OPTUNA_STORAGE",
        help="URL of Optuna's storage; one with a password belongs in the variable, as all users of a machine see "
        "options  (default: sqlite:///optuna.db)",
    ),
]


Model = Annotated[str, typer.Option(help="Hub id or path of the base model")]


JudgeModel = Annotated[str | None, typer.Option(help="Hub id or folder of a sequence classifier")]


JudgeFunction = Annotated[str | None, typer.Option(help="your own function, as module:name")]


Hours = Annotated[float, typer.Option(help="hours that the sweep may take")]
