"""Requests to a sweep as files `requests/ID.json` in the study's folder; `studies/requests.py` has what they say.

`ID`: 1 to 64 letters, digits, `-` and `_`, new for every request. The file is put there whole: written under a name
that begins with a dot, then renamed.

The sweep answers within seconds, with the event `request_answered`, and removes the file. It takes regular files of at
most `MOST_BYTES` alone. What was there before it began, asks another sweep, or is no request is refused, not obeyed.
"""

from __future__ import annotations

import json
import re
import secrets
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from os import scandir
from pathlib import Path
from typing import Final

from studies.requests import NoRequest, Request, from_json, in_json, name_of
from studies.text.files import UnusableFile, is_file, is_folder, read_json, write_whole
from sweeper.folder.names import REQUESTS

MOST_BYTES: Final = 1 << 14
MOST_AT_ONCE: Final = 100  # requests that are taken in one go
MOST_FILES: Final = 10_000  # among which they are looked for
_NAME: Final = re.compile(r"([0-9A-Za-z_-]{1,64})\.json")
_BEING_WRITTEN: Final = re.compile(r"\.[0-9A-Za-z_-]{1,64}\.json\.[0-9a-f]{16}")


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
        return name_of(self.request) if self.request is not None else ""


def put(runs: Path, request: Request, sweep: str) -> str:
    """Write a request where the sweep finds it, and give its id. Raises OSError."""
    folder = runs / REQUESTS
    folder.mkdir(exist_ok=True)
    if not is_folder(folder):
        raise UnusableFile(folder, "is no real folder, and requests are put there: move it away")
    identity = secrets.token_hex(8)
    write_whole(folder / f"{identity}.json", json.dumps(in_json(request, sweep)))
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
    try:
        return RequestFile(identity, *from_json(found))
    except NoRequest as error:
        return RequestFile(identity, None, problem=str(error))
