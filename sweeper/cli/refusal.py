"""Refuses what cannot be run: every problem at once, exit code 2."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NoReturn

import typer

from studies.text.mistakes import Mistake, Problems, as_mistakes, of_option
from studies.text.redact import redact
from studies.text.visible import visible
from sweeper.cli.output import Output

# A mistake is told with its value, which may be a page long: head and tail hold the place, the rule and the remedy.
_LONGEST_PROBLEM = 1500


class Refused(typer.Exit):
    """What was asked for cannot be done, for these mistakes."""

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        super().__init__(2)
        self.mistakes = mistakes


class Ended(Refused):
    """What was begun cannot go on, for these reasons, which people have been told; what is done is kept."""

    def __init__(self, mistakes: tuple[Mistake, ...]) -> None:
        super().__init__(mistakes)
        self.exit_code = 1


def refuse(problems: Iterable[Mistake | str]) -> NoReturn:
    """End the command with every problem on standard error, or as JSON where that was asked for, and exit code 2."""
    raise Refused(as_mistakes(problems))


@contextmanager
def told(output: Output) -> Iterator[None]:
    """Inside, tell what is refused, by us or by the parser of the command."""
    try:
        yield
    except Refused as error:
        for mistake in () if isinstance(error, Ended) or output.stream is not None else error.mistakes:
            typer.echo(f"error: {_shortened(visible(redact(mistake.message)))}", err=True)
        output.say(Problems(error.mistakes))
        raise
    except Exception as error:
        if not hasattr(error, "format_message"):  # none of the parser's
            raise
        if output.stream is not None:
            output.say(Problems((_of_parser(error),)))
            raise typer.Exit(int(getattr(error, "exit_code", 2))) from None
        said = vars(error)  # printed in a box, which may break a secret in two
        if isinstance(said.get("message"), str):
            said["message"] = visible(redact(said["message"]))
        raise


def _shortened(problem: str) -> str:
    half = _LONGEST_PROBLEM // 2
    return problem if len(problem) <= _LONGEST_PROBLEM else f"{problem[:half]} ... {problem[-half:]}"


def _of_parser(error: Any) -> Mistake:
    """A mistake in the words of a command: an option that there is not, a value that is missing or of a wrong kind."""
    parameter, context = getattr(error, "param", None), getattr(error, "ctx", None)
    key = getattr(error, "option_name", None)
    if key is None and parameter is not None:
        key = parameter.opts[0] if parameter.param_type_name == "option" else parameter.metavar or parameter.name
    command = f"sweeper {context.info_name}" if context is not None and context.parent is not None else "sweeper"
    near = getattr(error, "possibilities", None)
    said = str(error.format_message())
    return Mistake(key, None, said, f"did you mean {', '.join(near)}?" if near else f"see {command} --help", said)


def refuse_unknown_executor(executor: str) -> None:
    """Exit with 2 where there is none of this name."""
    from sweeper.executors import EXECUTORS

    if executor not in EXECUTORS:
        valid = f"valid are {', '.join(EXECUTORS)}."
        wrong = "there is no such executor"
        refuse([of_option("--executor", executor, f"{wrong}; {valid}", wrong, valid)])
