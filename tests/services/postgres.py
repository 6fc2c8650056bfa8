"""A PostgreSQL of one's own for a test: a server in a temporary folder on a free port, for any user.

Debian: `apt-get install postgresql`. The server refuses to be root's, so that root starts it as another user.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from tests.services.processes import end, free_ports, short_folder, start, wait_for

PACKAGES = "apt-get install postgresql"
_SETTINGS = """
listen_addresses = '127.0.0.1'
port = {port}
unix_socket_directories = '{folder}'
fsync = off
max_connections = 40
"""  # without fsync nothing is lost while the machine stays on
PASSWORD = "correct-horse-battery"


def missing_postgres() -> str | None:
    """Why no PostgreSQL can be started here, or none be spoken to; None where one can."""
    if _program("initdb") is None or _program("postgres") is None:
        return f"no PostgreSQL on this machine: {PACKAGES}"
    return None if find_spec("psycopg") else "no psycopg in this environment: pip install 'psycopg[binary]'"


@dataclass
class Postgres:
    """A server that runs, or did. Its one user needs a password, and may make databases."""

    folder: Path
    port: int
    user: str | None
    _server: subprocess.Popen[bytes] | None = None

    def url(self, database: str, user: str = "sweeper", password: str = PASSWORD) -> str:
        """The address of a database, as both stores take it."""
        return f"postgresql+psycopg://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def make(self, *databases: str) -> None:
        """Make databases."""
        for database in databases:
            self.query("postgres", f'create database "{database}"')

    def query(self, database: str, text: str) -> list[tuple[str, ...]]:
        """What a query of a database gives; what it changes stays. Raises psycopg's errors."""
        import psycopg

        address = self.url(database).replace("+psycopg", "")
        with psycopg.connect(address, autocommit=True) as connection, connection.cursor() as cursor:
            cursor.execute(text.encode())
            return [tuple(map(str, row)) for row in cursor.fetchall()] if cursor.description else []

    def start(self) -> None:
        """Start the server and wait until it answers."""
        command = [_program("postgres") or "", "-D", str(self.folder / "data")]
        self._server = start(command, self.folder / "log", user=self.user)
        wait_for(self._answers, "PostgreSQL", self.folder / "log", [self._server])

    def stop(self, by: signal.Signals = signal.SIGINT) -> None:
        """End the server: at once by default, which closes all connections; SIGKILL as where its machine dies."""
        if self._server is not None:
            end(self._server, by)

    def restart(self) -> None:
        """Close all connections and start again."""
        self.stop()
        self.start()

    def _answers(self) -> bool:
        ready = [_program("pg_isready") or "", "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        return subprocess.run(ready, check=False).returncode == 0


@contextmanager
def running_postgres() -> Iterator[Postgres]:
    """A server with an empty cluster, ended at the end. Raises NotStarted."""
    user = _other_user() if os.getuid() == 0 else None
    with short_folder("postgres-") as folder:
        server = Postgres(folder, free_ports(1)[0], user)
        try:
            _make(server)
            server.start()
            yield server
        finally:
            server.stop()


def _make(server: Postgres) -> None:
    """Make the cluster."""
    folder, password = server.folder, server.folder / "password"
    password.write_text(PASSWORD)
    if server.user is not None:
        shutil.chown(folder, server.user)
        shutil.chown(password, server.user)
    options = ["--no-sync", "--username=sweeper", "--auth=scram-sha-256", f"--pwfile={password}"]
    made = start([_program("initdb") or "", "-D", str(folder / "data"), *options], folder / "log", user=server.user)
    wait_for(lambda: made.poll() == 0, "initdb", folder / "log", [])
    with (folder / "data" / "postgresql.conf").open("a", encoding="utf-8") as settings:
        settings.write(_SETTINGS.format(port=server.port, folder=folder))


def _other_user() -> str:
    """A user that root can start a server as."""
    for name in ("postgres", "nobody"):
        with suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise LookupError("root cannot start PostgreSQL, and there is no other user to start it as")


def _program(name: str) -> str | None:
    """Where a program is: Debian keeps it where nobody looks, the newest version last."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=lambda place: int(place.parent.name))
    return shutil.which(name, path=os.pathsep.join([*map(str, reversed(found)), os.environ.get("PATH", "")]))
