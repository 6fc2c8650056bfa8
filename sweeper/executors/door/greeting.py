"""What a sweep and a worker say before any other message: who they are, and that both know the sweep's key.

1. The sweep: `["sweeper", PROTOCOL, nonce, packages]`, to whoever has connected.
2. The worker: `[proof, hello]`, of `Hello` as JSON with a nonce of its own. A wrong proof is answered by silence.
3. The sweep: `[proof, welcome]`, of `Welcome` as JSON, which may be a refusal. The worker leaves where the proof is
   wrong: it would train what a stranger says.
4. Where they are on two machines, the worker: `["shared", name]`, of the file that it has written into the folder that
   `Welcome` names, or `["unshared", reason]`; and the sweep, once it has read that: `["in"]` or `["refused", reason]`.

A proof is HMAC-SHA256 with the key over the speaker's role, both nonces and the text, so that none can be used again or
sent back. It keeps strangers out. It hides nothing, and does not keep somebody out who changes what is on the wire.
"""

from __future__ import annotations

import hmac
import json
import os
import platform
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final, Literal

from pydantic import TypeAdapter

from studies.text.files import parse_json

PROTOCOL: Final = 1
MOST_BYTES: Final = 16 << 10
"""Of a frame before the worker is let in."""
PACKAGES: Final = ("dpo-sweeper", "torch", "transformers", "trl", "peft")
"""Those whose versions must be the same on all machines, as numbers hang on them."""


class Refused(Exception):
    """The other side does not go on, and says why."""


@dataclass(frozen=True)
class Hello:
    """What a worker tells of itself. `ticket`: that of its launch; "": it is a host, that starts workers in so many
    `places`. `versions`: by package, with Python's.
    """

    ticket: str
    places: int
    host: str
    process: int
    versions: Mapping[str, str]


@dataclass(frozen=True)
class Welcome:
    """What a worker must know. `folder`: the one that both must see, `file` in it holds `holds` (None: they are on one
    machine). `start`: the sweep's own working folder, in which relative paths of a study begin. `refused`: why it is
    not let in, "" where it is.
    """

    name: str = ""
    trainer: str = ""
    folder: str | None = None
    file: str = ""
    holds: str = ""
    start: str = ""
    refused: str = ""

    def named(self, name: str) -> Welcome:
        """The welcome of a worker of this name."""
        return replace(self, name=name)


def new_nonce() -> str:
    """Random text that is used once."""
    return secrets.token_hex(16)


def first_words(nonce: str, packages: Sequence[str]) -> bytes:
    """What the sweep says to whoever has connected."""
    return json.dumps(["sweeper", PROTOCOL, nonce, list(packages)]).encode()


def heard_first(data: bytes) -> tuple[str, list[str]]:
    """The sweep's nonce, and the packages whose versions it asks for. Raises Refused where it is no sweep, or one of
    another version.
    """
    try:
        name, protocol, nonce, packages = parse_json(data)
        known = name == "sweeper" and isinstance(nonce, str)
    except (ValueError, TypeError):
        known = False
    if not known:
        raise Refused("what answers there is no sweep")
    if protocol != PROTOCOL:
        raise Refused(f"the sweep speaks version {protocol} of the protocol and this worker {PROTOCOL}: {SAME}")
    return nonce, [str(name) for name in packages]


SAME: Final = "install the same version of the sweeper on both machines"


def sealed(key: bytes, role: Literal["sweep", "worker"], nonces: tuple[str, str], told: Hello | Welcome) -> bytes:
    """What a side says of itself, with its proof. `nonces`: the sweep's and the worker's."""
    text = json.dumps(asdict(told))
    return json.dumps([_proof(key, role, nonces, text), nonces[1], text]).encode()


def opened(key: bytes, role: Literal["sweep", "worker"], nonce: str, data: bytes) -> tuple[str, str]:
    """What the other side has said, and the worker's nonce. Raises ValueError where its proof is wrong."""
    found = parse_json(data)
    if not (isinstance(found, list) and len(found) == 3 and all(isinstance(part, str) for part in found)):
        raise ValueError("no proof")
    proof, of_worker, text = found
    if not hmac.compare_digest(proof.encode(), _proof(key, role, (nonce, of_worker), text).encode()):
        raise ValueError("a wrong proof")
    return text, of_worker


def _proof(key: bytes, role: str, nonces: tuple[str, str], text: str) -> str:
    return hmac.digest(key, json.dumps([role, *nonces, text]).encode(), "sha256").hex()


@cache
def _reader(kind: type) -> TypeAdapter[Any]:
    return TypeAdapter(kind)


def hello_in(text: str) -> Hello:
    """Raises ValueError for what is none."""
    found: Hello = _reader(Hello).validate_json(text)
    return found


def welcome_in(text: str) -> Welcome:
    """Raises ValueError for what is none."""
    found: Welcome = _reader(Welcome).validate_json(text)
    return found


def hello_of(ticket: str, places: int, packages: Sequence[str]) -> Hello:
    """What this process tells of itself."""
    return Hello(ticket, places, socket.gethostname(), os.getpid(), versions_of(packages) if packages else {})


def versions_of(packages: Sequence[str]) -> dict[str, str]:
    """The versions of Python and of packages, "" where one is not installed; without what a build adds (`+cpu`)."""
    found = {"python": ".".join(platform.python_version_tuple()[:2])}
    for package in packages:
        try:
            found[package] = (version(package) or "").partition("+")[0]  # None where an installation is broken
        except PackageNotFoundError:
            found[package] = ""
    return found


def differs(here: Mapping[str, str], hello: Hello) -> str:
    """Why a worker of other versions is not let in, "" where it has the same."""
    apart = [
        f"{name} {hello.versions.get(name) or '(none)'} where the sweep has {mine or '(none)'}"
        for name, mine in here.items()
        if hello.versions.get(name) != mine
    ]
    return f"{hello.host} has {', '.join(apart)}: install the same there, or results would differ" if apart else ""
