"""How a worker comes to its sweep: over a connection that it was handed on, or by dialling one of its addresses."""

from __future__ import annotations

import json
import socket
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace

from studies.text.files import parse_json
from sweeper.executors.door.frames import framed, read_frame
from sweeper.executors.door.greeting import (
    MOST_BYTES,
    Refused,
    Welcome,
    heard_first,
    hello_of,
    new_nonce,
    opened,
    sealed,
    welcome_in,
)
from sweeper.executors.door.network import keep_alive, split_address
from sweeper.executors.door.shared import answer_mark

PATIENCE_SECONDS = 120.0
"""For a sweep that begins after its workers, or a network that comes up."""
_CONNECT_SECONDS = 5.0
_ANSWER_SECONDS = 60.0
_PAUSE_SECONDS = 1.0


class NobodyThere(Exception):
    """No address leads to a sweep: says which were tried, and what came of it."""


def dial(
    addresses: Sequence[str], key: bytes, ticket: str, places: int = 0, patience: float = PATIENCE_SECONDS
) -> tuple[socket.socket, Welcome, str]:
    """Connect to the first of the addresses (`HOST:PORT`) at which a sweep answers; the connection, what it says, and
    that address. Raises NobodyThere; Refused where the sweep does not want this worker; ValueError for no address.
    """
    deadline, tried = time.monotonic() + patience, dict[str, str]()
    places_to_try = [(address, *split_address(address)) for address in addresses]
    while True:
        for address, host, port in places_to_try:
            try:
                connection = socket.create_connection((host, port or 0), _CONNECT_SECONDS)
            except OSError as error:
                tried[address] = error.strerror or str(error)
                continue
            try:
                keep_alive(connection)
                return connection, greet(connection, key, ticket, places, _ANSWER_SECONDS), address
            except (OSError, EOFError, ValueError) as error:
                connection.close()
                tried[address] = str(error) or "it hung up: is the key the same?"
            except BaseException:
                connection.close()
                raise
        if time.monotonic() > deadline:
            told = "; ".join(f"{address}: {why}" for address, why in tried.items())
            raise NobodyThere(f"no sweep answers for {patience:.0f} s ({told})")
        time.sleep(_PAUSE_SECONDS)


def inherit(descriptor: int, key: bytes, ticket: str) -> tuple[socket.socket, Welcome]:
    """Take a connection that this process was started with; that, and what the sweep says, for which it waits as long
    as it takes: a sweep that is stopped answers when it goes on, and one that ends hangs up. Raises as `greet`.
    """
    connection = socket.socket(fileno=descriptor)
    connection.set_inheritable(False)
    return connection, greet(connection, key, ticket, 0, None)


def greet(connection: socket.socket, key: bytes, ticket: str, places: int, seconds: float | None) -> Welcome:
    """Show the key, tell what this process is, and hear what it must know; each answer has so many seconds. Raises
    Refused; OSError, EOFError and ValueError where the other side breaks off, or is not who has the key.
    """
    connection.settimeout(seconds)
    sweep, packages = heard_first(read_frame(connection, MOST_BYTES))
    mine = new_nonce()
    hello = hello_of(ticket, places, packages)
    connection.sendall(framed(sealed(key, "worker", (sweep, mine), hello)))
    text, of_worker = opened(key, "sweep", sweep, read_frame(connection, MOST_BYTES))
    if of_worker != mine:
        raise ValueError("an answer to somebody else")
    welcome = welcome_in(text)
    if welcome.refused:
        raise Refused(welcome.refused)
    if welcome.folder is not None:
        _show_folder(connection, welcome)
    connection.settimeout(None)
    return replace(welcome, holds="")


def _show_folder(connection: socket.socket, welcome: Welcome) -> None:
    try:
        told = ["shared", answer_mark(welcome)]
    except Refused as error:
        told = ["unshared", str(error)]
    connection.sendall(framed(json.dumps(told).encode()))
    with suppress(ValueError, TypeError):
        word, *rest = parse_json(read_frame(connection, MOST_BYTES))
        if word == "in":
            return
        raise Refused(str(rest[0]) if rest else "the sweep has refused it")
    raise ValueError("no answer")
