"""Serves the live page on the stores of a folder."""

from __future__ import annotations

import importlib.util
import socket
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from dashboards.live.reading.watcher import Watcher
from dashboards.store.databases import OPTUNA, word
from studies.text.redact import redact
from sweeper.commands.page.acts import hands
from sweeper.commands.page.files import StudyFiles
from sweeper.commands.page.told import told
from sweeper.search.storage import storage_url

LIBRARY: Final = "nicegui"
LOOPBACK: Final = ("127.0.0.1", "localhost", "::1")
ANY: Final = ("0.0.0.0", "::")


def is_installed() -> bool:
    """Whether the page's library is."""
    return importlib.util.find_spec(LIBRARY) is not None


def serve_page(uri: str, here: Path, asked: str | None, host: str, port: int, tell_user: Callable[[str], None]) -> None:
    """Serve the page until it is stopped. `asked`: the study that it is opened for, its file or its name."""
    from dashboards.live.doors.guard import Keys
    from dashboards.live.doors.mlflow_server import MlflowServer
    from dashboards.live.doors.proxy import PREFIX
    from dashboards.live.page.app import listener, page_of, serve
    from dashboards.live.page.parts import Desk

    files = StudyFiles(here, asked)
    sources = told(here, files)
    watcher = Watcher(uri, here, sources)

    def variants_of(study: str) -> tuple[str, ...]:
        glance = watcher.seen.study(study)
        counts = None if glance is None else glance.counts
        return () if counts is None else tuple(dict.fromkeys(stratum.variant for stratum in counts.strata))

    elsewhere = uri.startswith(("http://", "https://"))
    mlflow = None if elsewhere else MlflowServer(uri)
    desk = Desk(
        watcher=watcher,
        hands=hands(here, files.file, files.why_none, variants_of),
        uri=uri,
        folder=here,
        mlflow=str(redact(uri)).rstrip("/") if elsewhere else PREFIX,
        acted=[],
        also=(("Optuna's own pages (another program):", f"optuna-dashboard {word(OPTUNA, storage_url(None, here))}"),),
    )
    place = listener(host, port)  # before its link is told, so that nobody is refused who follows it at once
    keys = Keys.of(host, port, () if host in LOOPBACK else names_of_machine())
    shown = socket.gethostname() if host in ANY else f"[{host}]" if ":" in host else host
    name = asked_name(asked, sources.file, [*sources.folders()]) if asked is not None else None
    path = "/" if name is None else f"/study/{name}"
    page = page_of(desk, keys, mlflow)
    tell_user(f"The live page: {keys.link(f'http://{shown}:{port}', path)}")
    tell_user("  Who has this link can read all studies here and steer them. Ctrl-C ends the page, and no sweep.")
    if host in LOOPBACK:
        tell_user(f"  From another machine: ssh -L {port}:127.0.0.1:{port} {socket.gethostname()}, then the same link")
    else:
        tell_user("warning: the link and all that is seen go over the network unencrypted; ssh -L is safer")
    serve(page, place)


def names_of_machine() -> frozenset[str]:
    """The names and addresses by which others know this machine, as far as it knows them itself."""
    name = socket.gethostname()
    found = {name, socket.getfqdn()}
    with suppress(OSError):
        for *_, address in socket.getaddrinfo(name, None):
            text = str(address[0]).partition("%")[0]
            found.add(f"[{text}]" if ":" in text else text)
    return frozenset(found)


def asked_name(asked: str, file_of: Callable[[str], str | None], known: list[str]) -> str | None:
    """The name of the study that somebody named by its file or its name."""
    from studies.loading.load import read_yaml
    from studies.spec import StudyError

    if asked in known:
        return asked
    try:
        return str(read_yaml(Path(asked)).get("study"))
    except StudyError:
        return next((name for name in known if file_of(name) == asked), asked)
