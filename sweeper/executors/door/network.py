"""Connections between machines: how long a silence may last, this machine's addresses, the sweep's key."""

from __future__ import annotations

import os
import secrets
import socket
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from studies.text.files import UnusableFile, open_file

KEY_VARIABLE: Final = "SWEEPER_KEY"
KEY_FILE_VARIABLE: Final = "SWEEPER_KEY_FILE"
_SHORTEST_KEY: Final = 16
SILENT_SECONDS: Final = 30
"""After which the other machine is gone: it has lost its network, its power, or is stopped as a whole."""


def keep_alive(connection: socket.socket) -> None:
    """Have the system notice a machine that answers no more, and send small messages at once. Raises OSError."""
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (
        ("TCP_KEEPIDLE", SILENT_SECONDS // 3),
        ("TCP_KEEPINTVL", SILENT_SECONDS // 6),
        ("TCP_KEEPCNT", 4),
        ("TCP_USER_TIMEOUT", 1000 * SILENT_SECONDS),  # of what was sent and not answered (Linux, tcp(7))
    ):
        if hasattr(socket, name):
            connection.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


def own_addresses() -> list[str]:
    """The addresses at which other machines may reach this one, the likeliest first; that of itself last."""
    found: dict[str, None] = {}
    for probe in ("10.255.255.255", "192.0.2.1"):  # nothing is sent there: the system names the address it would use
        with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
            one.connect((probe, 9))
            found[one.getsockname()[0]] = None
    with suppress(OSError):
        for *_, address in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET, socket.SOCK_STREAM):
            found[str(address[0])] = None
    outward = [address for address in found if not address.startswith(("127.", "0."))]
    return [*outward, "127.0.0.1"]


def split_address(text: str) -> tuple[str, int | None]:
    """Host and port of `HOST:PORT`, the port None where it says none. Raises ValueError."""
    host, colon, port = text.rpartition(":")
    if not colon:
        return text, None
    if not host or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ValueError(f"{text!r} is no HOST:PORT, such as 10.0.0.7:4711")
    return host, int(port)


def make_key(file: Path) -> bytes:
    """The key of a sweep: of the variable, else of the file, which is made where there is none and is for this user
    alone. In both cases the file has it, for workers that share the folder. Raises OSError, and ValueError for a key
    that is too short.
    """
    given = KEY_VARIABLE in os.environ
    key = key_in({KEY_VARIABLE: os.environ[KEY_VARIABLE]}).decode() if given else secrets.token_hex(32)
    if given:
        file.unlink(missing_ok=True)
    with suppress(FileExistsError):
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        with os.fdopen(descriptor, "w") as new:
            new.write(key)
    return key_in({KEY_FILE_VARIABLE: str(file)})


def key_in(environment: Mapping[str, str]) -> bytes:
    """The key that the variables hold or name the file of. Raises OSError, or ValueError where there is none."""
    if KEY_VARIABLE in environment:
        key = environment[KEY_VARIABLE].strip()
    elif KEY_FILE_VARIABLE in environment:
        file = Path(environment[KEY_FILE_VARIABLE])
        with open_file(file, os.O_RDONLY) as found:
            mode = os.fstat(found.fileno()).st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                raise UnusableFile(file, "can be read by others than you, who could join the sweep: chmod 600 it")
            key = found.read(1 << 10).decode(errors="replace").strip()
    else:
        raise ValueError(f"no key: set {KEY_VARIABLE} to the sweep's, or {KEY_FILE_VARIABLE} to the file that has it")
    if len(key) < _SHORTEST_KEY:
        raise ValueError(f"the key of the sweep has {len(key)} characters, and needs {_SHORTEST_KEY} or more")
    return key.encode()
