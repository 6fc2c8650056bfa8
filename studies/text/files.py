"""Reads and writes files in folders that others may have filled: with links, pipes, files without end.

What is read is a regular file of bounded size, and JSON that is nested without end is an error like any other. What is
written goes to a new file of a random name first, so that it goes through no link and is there whole or not at all.
The mode of all files is what the user's umask makes of it.
"""

from __future__ import annotations

import errno
import json
import os
import secrets
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any, Final

MOST_BYTES: Final = 128 << 20
"""Of a file that is read whole; the largest of ours are results of very long runs."""
LONGEST_HEADER: Final = 100_000_000  # of a safetensors file, as its library takes it


class UnusableFile(OSError, ValueError):
    """A file that is none of ours, by its kind, size or content: says which and why."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(errno.EINVAL, reason, str(path))

    def __str__(self) -> str:
        return f"{self.filename} {self.strerror}"


def is_folder(path: Path) -> bool:
    """Whether a real folder is there, not a link to one."""
    return _has_mode(path, stat.S_ISDIR)


def is_file(path: Path) -> bool:
    """Whether a regular file is there, not a link to one."""
    return _has_mode(path, stat.S_ISREG)


def is_here_alone(path: Path) -> bool:
    """Whether a regular file is there that has no other name: what a hard link names may be anybody's, and is not sent
    to others.
    """
    return is_file(path) and path.lstat().st_nlink == 1


def _has_mode(path: Path, kind: Any) -> bool:
    try:
        return bool(kind(path.lstat().st_mode))
    except (OSError, ValueError):
        return False


def what_is_wrong(path: Path, *, links: bool = False) -> str | None:
    """Why a file is not read or written where it is there; None where it may be. `links`: links to files may be."""
    try:
        found = path.stat() if links else path.lstat()
    except FileNotFoundError:
        return None
    return _wrong(found.st_mode)


def _wrong(mode: int) -> str | None:
    if stat.S_ISREG(mode):
        return None
    return "is a link, which is not followed" if stat.S_ISLNK(mode) else "is no regular file"


def read_bytes(path: Path, most: int = MOST_BYTES, *, links: bool = False) -> bytes:
    """The content of a regular file. Raises OSError, of which UnusableFile also is a ValueError."""
    with open_file(path, os.O_RDONLY, links=links) as file:
        return _read(path, file, most)


def read_json(path: Path, most: int = MOST_BYTES, *, links: bool = False) -> Any:
    """What a JSON file holds. Raises OSError, of which UnusableFile also is a ValueError."""
    try:
        return parse_json(read_bytes(path, most, links=links))
    except UnusableFile:
        raise
    except ValueError as error:
        raise UnusableFile(path, f"is no JSON that can be read ({error})") from error


def parse_json(text: str | bytes) -> Any:
    """What JSON text holds. Raises ValueError, also for what is nested too deep to be read."""
    try:
        return json.loads(text)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def safetensors_header(path: Path, *, links: bool = False) -> Mapping[str, Any]:
    """The header of a safetensors file. Raises OSError, of which UnusableFile also is a ValueError.

    The format: 8 bytes, little-endian, say how long the JSON is that follows (safetensors, README, "Format").
    """
    with open_file(path, os.O_RDONLY, links=links) as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(LONGEST_HEADER, os.fstat(file.fileno()).st_size - 8):
            raise UnusableFile(path, "is no safetensors file: its header would be longer than the file")
        try:
            header = parse_json(file.read(length))
        except ValueError as error:
            raise UnusableFile(path, f"is no safetensors file: its header cannot be read ({error})") from error
    if not isinstance(header, dict):
        raise UnusableFile(path, "is no safetensors file: its header is no mapping")
    return header


def why_cut(path: Path) -> str | None:
    """Why a safetensors file is not whole, with what to do; None where it is, or cannot be looked at."""
    try:
        header = safetensors_header(path, links=True)
        with open_file(path, os.O_RDONLY, links=True) as file:
            begins = 8 + int.from_bytes(file.read(8), "little")
            size = os.fstat(file.fileno()).st_size
    except UnusableFile as error:
        return f"{path.name} {error.strerror}: it is cut or damaged, so load it again"
    except OSError:
        return None
    ends = [_end(entry) for name, entry in header.items() if name != "__metadata__"]
    known = [end for end in ends if end is not None]
    if len(known) < len(ends):
        return f"{path.name} does not say where its weights lie: it is damaged, so load it again"
    needed = begins + max(known, default=0)
    return None if size >= needed else f"{path.name} is cut, at {size:,} of {needed:,} bytes: load it again"


def _end(entry: Any) -> int | None:
    """Where a tensor ends in a safetensors file, as its entry in the header says; None where it says no such thing."""
    match entry:
        case {"data_offsets": [int(begin), int(end)]} if 0 <= begin <= end:
            return end
    return None


def open_file(path: Path, flags: int, *, links: bool = False) -> IO[bytes]:
    """Open a regular file, through no link unless `links`, and without waiting for one that is a pipe.

    To be written, it must have no other name either: a hard link would lead the writing elsewhere. Raises OSError.
    """
    wrong = what_is_wrong(path, links=links)
    if wrong is not None:
        raise UnusableFile(path, wrong)
    follow = 0 if links else os.O_NOFOLLOW
    descriptor = os.open(path, flags | follow | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    try:
        found = os.fstat(descriptor)
        wrong = _wrong(found.st_mode)  # again: what was looked at may be another file by now
        if wrong is None and flags & (os.O_WRONLY | os.O_RDWR) and found.st_nlink > 1:
            wrong = "has another name elsewhere (a hard link), so that it is not written to"
        if wrong is not None:
            raise UnusableFile(path, wrong)
        mode = "ab" if flags & os.O_APPEND else "r+b" if flags & os.O_RDWR else "rb"
        return os.fdopen(descriptor, mode)
    except BaseException:
        os.close(descriptor)
        raise


def write_whole(path: Path, content: str | bytes, mode: int | None = None) -> None:
    """Put a file in place of what has its name, whole or not at all, also when the machine loses power. `mode`: its
    permissions, where they are not what the umask says. Raises OSError, and leaves what was there.
    """
    temporary = write_beside(path, content, mode)
    try:
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(descriptor)  # the new name itself
    finally:
        os.close(descriptor)


def write_beside(path: Path, content: str | bytes, mode: int | None = None) -> Path:
    """Write a new file `.NAME.RANDOM` in the folder of `path`, flushed to the disk, and give its path. Raises OSError,
    and leaves nothing.
    """
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(8)}")
    try:
        with temporary.open("xb") as file:
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return temporary


def _read(path: Path, file: IO[bytes], most: int) -> bytes:
    size = os.fstat(file.fileno()).st_size
    content = file.read(most + 1) if size <= most else b""
    if size > most or len(content) > most:
        raise UnusableFile(path, f"has {size / 2**20:.0f} MiB, more than the {most / 2**20:.0f} MiB that are read")
    return content
