"""The command line as scripts call it: commands, options, defaults, accepted words and exit codes; no help text."""

from __future__ import annotations

import contextlib
import os
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, get_args

import typer
from typer.testing import CliRunner

from sweeper.cli.app import app

PROJECT = Path(__file__).parents[2] / "pyproject.toml"
STUDY = "study: s\ntrainer: formula\nbase: {model_name_or_path: m}\ndata: {path: d}\nvariants: {sigmoid: {}}\n"
# Called in a folder that holds this study and no store.
CALLS: Sequence[str] = (
    "",
    "--help",
    "plan --help",
    "no-such-command",
    "plan",
    "plan s.yaml",
    "plan no-such-study",
    "plan s.yaml --set base.no_such_setting=1",
    "plan s.yaml --set objective.metric=no_such_metric",
    "plan s.yaml --no-such-option",
    "plan s.yaml --workers 0",
    "run s.yaml --executor no-such-executor",
    "run s.yaml --verify -1",
    "retry s.yaml --cause no-such-cause",
    "stop s.yaml",
    "pause s.yaml no-such-variant",
    "pause s.yaml sigmoid",
    "status s.yaml",
    "status s.yaml --failed",
    "table s.yaml",
    "table s.yaml --format no-such-format",
    "table s.yaml --rows beta",
    "report s.yaml",
    "export s.yaml",
    "evaluate s.yaml --only-best",
    "init s.yaml",
    "init new.yaml",
)
FORMATS = ("text", "markdown", "csv", "json", "html")
CAUSES = (
    *("diverged", "inverted", "collapsed", "drifted", "out_of_gpu_memory", "out_of_host_memory", "refused"),
    *("worker_lost", "preempted", "infrastructure", "non_finite", "time_limit", "paused"),
)


def command_line(folder: Path) -> dict[str, Any]:
    """All that a script may rest on of the command `sweeper`; `folder` is empty."""
    (folder / "s.yaml").write_text(STUDY)
    with inside(folder):
        return {
            "commands": commands(),
            "exit codes": {call: _exit_code(call.split()) for call in CALLS},
            "installed as": sorted(tomllib.loads(PROJECT.read_text(encoding="utf-8"))["project"]["scripts"]),
        }


def accepted_words(folder: Path) -> dict[str, Any]:
    """Exit codes of every format of a table and of every cause of a retry, in a folder with the recorded `formula`."""
    causes = [word for cause in CAUSES for word in ("--cause", cause)]
    with inside(folder):
        return {
            "formats": {name: _exit_code(["table", "formula.yaml", "--format", name]) for name in FORMATS},
            "causes": _exit_code(["retry", "formula.yaml", "--executor", "inline", *causes]),
        }


def commands() -> dict[str, Any]:
    """Every command with its parameters, by name."""
    group: Any = typer.main.get_command(app)
    return {name: {_spelled(p): _parameter(p) for p in command.params} for name, command in group.commands.items()}


def _spelled(parameter: Any) -> str:
    if parameter.param_type_name == "argument":
        return str(parameter.metavar or parameter.name).upper()
    return "/".join([*parameter.opts, *parameter.secondary_opts])


def _parameter(parameter: Any) -> Mapping[str, Any]:
    kind = parameter.type_descriptor.annotation
    told = {
        "type": str(kind) if get_args(kind) else kind.__name__,
        "default": str(parameter.default) if isinstance(parameter.default, Path) else parameter.default,
        "required": parameter.required,
        "flag": getattr(parameter, "is_flag", False),
        "several": getattr(parameter, "multiple", False),
        "variable": parameter.envvar,
        "least": parameter.min,
    }
    return {name: value for name, value in told.items() if value is not None and value is not False}


def _exit_code(arguments: Sequence[str]) -> int | str:
    result = CliRunner().invoke(app, list(arguments))
    escaped = result.exception is not None and not isinstance(result.exception, SystemExit)
    return repr(result.exception) if escaped else result.exit_code


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """Work in `folder`, and come back."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)
