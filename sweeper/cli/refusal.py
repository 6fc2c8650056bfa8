"""Refuses what cannot be run: every problem at once, exit code 2."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import typer

if TYPE_CHECKING:
    pass


# A mistake is told with its value, which may be a page long: head and tail hold the place, the rule and the remedy.
_LONGEST_PROBLEM = 1500


def _shortened(problem: str) -> str:
    half = _LONGEST_PROBLEM // 2
    return problem if len(problem) <= _LONGEST_PROBLEM else f"{problem[:half]} ... {problem[-half:]}"


def refuse(problems: tuple[str, ...] | list[str]) -> NoReturn:
    """Print every problem on standard error and exit with 2."""
    from sweeper.cli.display import shown

    for problem in problems:
        typer.echo(f"error: {_shortened(shown(problem))}", err=True)
    raise typer.Exit(2)
