"""The folder that a sweep and its workers on other machines must share: each reads what the other has written there."""

from __future__ import annotations

import re
import secrets
import time
from contextlib import suppress
from pathlib import Path
from typing import Final

from studies.text.files import read_bytes, write_whole
from sweeper.executors.door.greeting import Refused, Welcome

MARK_FILE: Final = "door.mark"
_NAME: Final = re.compile(r"\.seen-[0-9a-f]{16}")
_SECONDS: Final = 10.0
"""For a file to be seen by another machine: network file systems remember for a while what was not there."""


def leave_mark(folder: Path) -> tuple[str, str]:
    """Write the file that workers must be able to read; its name and what it holds. Raises OSError."""
    holds = secrets.token_hex(16)
    write_whole(folder / MARK_FILE, holds)
    return MARK_FILE, holds


def answer_mark(welcome: Welcome) -> str:
    """Read what the sweep has written and write a file beside it, whose name is given. Raises Refused."""
    folder = Path(welcome.folder or "")
    try:
        if _read(folder / welcome.file) != welcome.holds:
            raise FileNotFoundError
    except OSError:
        raise Refused(f"it does not see the folder {folder} as the sweep does") from None
    name = f".seen-{secrets.token_hex(8)}"
    try:
        (folder / name).touch(exist_ok=False)
    except OSError as error:
        raise Refused(f"it cannot write into the folder {folder} ({error.strerror})") from None
    return name


def is_answered(folder: Path, name: str) -> bool:
    """Whether the worker's file is here, which is removed."""
    if _NAME.fullmatch(name) is None:
        return False
    with suppress(OSError):
        (folder / name).unlink()
        return True
    return False


def _read(path: Path) -> str:
    deadline = time.monotonic() + _SECONDS
    while True:
        try:
            return read_bytes(path, 1 << 10).decode(errors="replace")
        except FileNotFoundError:
            if time.monotonic() > deadline or not path.parent.is_dir():
                raise
            time.sleep(0.2)
