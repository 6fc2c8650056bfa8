"""What is asked of a sweep: files `requests/ID.json` in the study's folder.

    {"v": 1, "ask": "stop", "now": false, "sweep": "9f2c41d07ab3"}

- `ask`: `stop` (`now`: at the next step of each run, else when the runs in training have ended), `pause` and `resume`
  (`variant`), `retry` (`causes`, as `sweeper retry --cause` takes them; none: all that failed), `extend` (`trials`:
  what `budget.trials` is from now on, or `replicates`). The last two are carried out once all other runs have ended.
- `sweep`: the sweep that is asked, as its events name it; without it whichever runs.
- `ID`: 1 to 64 letters, digits, `-` and `_`, new for every request. The file is put there whole: written under a name
  that begins with a dot, then renamed.

The sweep answers within seconds, with the event `request_answered`, and removes the file. It takes regular files of at
most `MOST_BYTES` alone. What was there before it began, asks another sweep, or is no request is refused, not obeyed.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from functools import lru_cache
from itertools import islice
from os import scandir
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import Field, TypeAdapter, ValidationError

from studies.records import Cause, Failure
from studies.text.files import UnusableFile, is_file, is_folder, read_json, write_whole
from sweeper.folder.names import REQUESTS

VERSION: Final = 1
MOST_BYTES: Final = 1 << 14
MOST_AT_ONCE: Final = 100  # requests that are taken in one go
MOST_TRIALS: Final = 100_000
MOST_REPLICATES: Final = 1000
MOST_FILES: Final = 10_000  # among which they are looked for
_NAME: Final = re.compile(r"([0-9A-Za-z_-]{1,64})\.json")
_BEING_WRITTEN: Final = re.compile(r"\.[0-9A-Za-z_-]{1,64}\.json\.[0-9a-f]{16}")


# What `sweeper retry` means where nothing is named, and what may be named: also how MLflow calls a cause, and runs that
# were stopped and do not go on by themselves.
FAILED: Final = frozenset(str(failure) for failure in Failure)
NAMED: Final = FAILED | {str(cause) for cause in Cause} - {Cause.FINISHED, Cause.USER_STOP}


@dataclass(frozen=True)
class Stop:
    """End the sweep: `now` at the next step of each run, else when the runs in training end."""

    now: bool = False


@dataclass(frozen=True)
class Pause:
    """Train no more runs of a variant, in this and later sweeps, until it is resumed."""

    variant: str


@dataclass(frozen=True)
class Resume:
    """Train runs of a paused variant again."""

    variant: str


@dataclass(frozen=True)
class Retry:
    """Train the runs again that ended for one of these causes; none named: all that failed."""

    causes: tuple[Annotated[str, Field(max_length=64)], ...] = ()


@dataclass(frozen=True)
class Extend:
    """Train so many trials of each stratum, as if the study's `budget.trials` were that, or so many `replicates`."""

    trials: Annotated[int, Field(ge=1, le=MOST_TRIALS)] | None = None
    replicates: Annotated[int, Field(ge=1, le=MOST_REPLICATES)] | None = None


Request = Stop | Pause | Resume | Retry | Extend
ASKS: Final[Mapping[str, type[Any]]] = {
    "stop": Stop,
    "pause": Pause,
    "resume": Resume,
    "retry": Retry,
    "extend": Extend,
}
_NAMES: Final = {kind: name for name, kind in ASKS.items()}


@dataclass(frozen=True)
class RequestFile:
    """A file in the folder of requests: the request and the sweep that it is for (empty: any), or what is wrong with
    it.
    """

    id: str
    request: Request | None
    sweep: str = ""
    problem: str = ""

    @property
    def ask(self) -> str:
        """The name of the request, empty where there is none."""
        return _NAMES[type(self.request)] if self.request is not None else ""


def put(runs: Path, request: Request, sweep: str) -> str:
    """Write a request where the sweep finds it, and give its id. Raises OSError."""
    folder = runs / REQUESTS
    folder.mkdir(exist_ok=True)
    if not is_folder(folder):
        raise UnusableFile(folder, "is no real folder, and requests are put there: move it away")
    identity = secrets.token_hex(8)
    written = {"v": VERSION, "ask": _NAMES[type(request)], "sweep": sweep, **asdict(request)}
    write_whole(folder / f"{identity}.json", json.dumps(written))
    return identity


def waiting(runs: Path, left_out: frozenset[str] = frozenset()) -> list[RequestFile]:
    """The requests that wait, without the files named in `left_out`, `MOST_AT_ONCE` at most."""
    names = islice((name for name in _names(runs) if _NAME.fullmatch(name) and name not in left_out), MOST_AT_ONCE)
    return [_read(runs / REQUESTS / name) for name in sorted(names)]


def remove(runs: Path, identity: str) -> bool:
    """Remove a request; False where that fails."""
    if not is_folder(runs / REQUESTS):
        return False
    path = runs / REQUESTS / f"{identity}.json"
    with suppress(OSError):
        path.unlink(missing_ok=True)
        return True
    with suppress(OSError):
        path.rmdir()
        return True
    return False


def remove_half_written(runs: Path) -> None:
    """Remove temporary files of requests whose writers were killed."""
    for name in list(_names(runs)):
        path = runs / REQUESTS / name
        if _BEING_WRITTEN.fullmatch(name) and is_file(path):
            with suppress(OSError):
                path.unlink()


def _names(runs: Path) -> Iterator[str]:
    folder = runs / REQUESTS
    if is_folder(folder):
        with suppress(OSError), scandir(folder) as entries:
            for entry in islice(entries, MOST_FILES):
                yield entry.name


def _read(path: Path) -> RequestFile:
    identity = path.stem
    try:
        found = read_json(path, MOST_BYTES)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return RequestFile(identity, None, problem=f"the file {reason}")
    if not isinstance(found, dict) or found.get("v") != VERSION:
        return RequestFile(identity, None, problem=f"it is no request of version {VERSION}")
    kind = ASKS.get(str(found.get("ask")))
    if kind is None:
        return RequestFile(identity, None, problem=f"`ask` is none of {', '.join(ASKS)}")
    sweep = found.get("sweep") or ""
    try:
        request = _reader(str(found["ask"])).validate_python(
            {name: value for name, value in found.items() if name in kind.__dataclass_fields__}
        )
    except ValidationError as error:
        wrong = error.errors()[0]
        return RequestFile(identity, None, problem=f"`{'.'.join(map(str, wrong['loc']))}`: {wrong['msg']}")
    return RequestFile(identity, request, sweep if isinstance(sweep, str) else "?")


@lru_cache
def _reader(name: str) -> TypeAdapter[Any]:
    return TypeAdapter(ASKS[name])
