"""What a command answers to a program: with `--json`, JSON alone on standard output, an object a line; else nothing.

All that is meant for people goes to standard error then, whoever prints it.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stdout
from dataclasses import dataclass
from queue import SimpleQueue
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Protocol, TextIO

import typer

from studies.text.as_json import as_json

if TYPE_CHECKING:
    from sweeper.folder.events import Line

Json = Annotated[bool, typer.Option("--json", help="answer with JSON, as sweeper/json.md describes it")]


class Document(Protocol):
    """A frozen type that knows what its JSON calls itself, `NAME/VERSION`."""

    schema: ClassVar[str]


@dataclass(frozen=True)
class Output:
    """Where JSON goes; None where nobody asked for it."""

    stream: TextIO | None

    @classmethod
    def asked_by(cls, words: Sequence[str]) -> Output:
        """The output of a command with these words."""
        options = words[: words.index("--")] if "--" in words else words
        return cls(sys.stdout if "--json" in options else None)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Inside, standard output is for JSON alone."""
        with redirect_stdout(sys.stderr) if self.stream is not None else nullcontext():
            yield

    def say(self, document: Document) -> None:
        """Write an object."""
        self.line(document.schema, document)

    def line(self, schema: str, value: Any) -> None:
        """Write an object with the fields of a mapping or a frozen type."""
        if self.stream is not None:
            self.write(as_json(schema, value).encode() + b"\n")

    def write(self, line: bytes) -> None:
        """Write a line of JSON. Past the stream's own layer: that takes secrets out of text, and these are out."""
        if self.stream is not None:
            self.stream.flush()
            self.stream.buffer.write(line)
            self.stream.buffer.flush()


class Events:
    """Writes a sweep's events to an output in a thread of its own: who reads slowly, or no longer, does not hold the
    sweep up.
    """

    def __init__(self, output: Output) -> None:
        self._output = output
        self._queue: SimpleQueue[Mapping[str, Any] | None] = SimpleQueue()
        self._thread = threading.Thread(target=self._write, name="events", daemon=True)

    def __enter__(self) -> Events:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Wait until all is written."""
        self._queue.put(None)
        self._thread.join()

    def add(self, line: Line) -> None:
        """Take in an event."""
        if self._output.stream is not None:
            from sweeper.folder.events import in_json

            self._queue.put(in_json(line))

    def _write(self) -> None:
        try:
            while (line := self._queue.get()) is not None:
                self._output.line("event/1", line)
        except (OSError, ValueError):
            return  # the reader is gone


def quiet_libraries() -> None:
    """Keep library chatter of this process out of the progress display."""
    import logging

    logging.getLogger("alembic").setLevel(logging.WARNING)
    logging.getLogger("mlflow").setLevel(logging.WARNING)
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    logging.getLogger("transformers").setLevel(logging.ERROR)  # of texts that are cut before a model sees them
