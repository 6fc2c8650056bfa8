"""Where a database is: the one place that makes a URL of a path and a path of a URL, and that compares two of them.

A URL is read as SQLAlchemy does, with which MLflow and Optuna open it; a test holds the two together. Opens nothing.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit

_SQLITE = re.compile(r"(?P<driver>sqlite(?:\+\w+)?):///(?P<database>[^?]*)(?:\?(?P<query>.*))?", re.DOTALL)
_LOCAL = frozenset({"", "localhost", "127.0.0.1", "::1"})
_PORTS = {"postgresql": 5432, "mysql": 3306, "mssql": 1433}
# Of PostgreSQL's own client: so many seconds to connect, and so many until a server that is cut off counts as gone.
# Without them a sweep may hang for hours. https://www.postgresql.org/docs/current/libpq-connect.html
_PATIENCE = {"connect_timeout": "10", "keepalives_idle": "20", "keepalives_interval": "5", "keepalives_count": "4"}
_LIBPQ = re.compile(r"postgresql(\+psycopg2?)?://")


def sqlite_url(file: Path) -> str:
    """The URL of a SQLite file, by its absolute path."""
    return _plain_url("sqlite", file.absolute(), "")


def sqlite_file(url: str) -> Path | None:
    """The file of a SQLite database; None for any other address, and for a database in memory."""
    match = _SQLITE.fullmatch(url)
    if match is None:
        return None
    database = unquote(match["database"])
    if not _is_sqlite_uri(database, match["query"]):
        return Path(database) if database not in ("", ":memory:") else None
    path = unquote(urlsplit(database).path)
    return Path(path) if path not in ("", ":memory:") and "mode=memory" not in match["query"] else None


def absolute_url(url: str, folder: Path) -> str:
    """The URL with a relative path of a SQLite file taken from `folder`; any other URL as it is."""
    match, file = _SQLITE.fullmatch(url), sqlite_file(url)
    if match is None or file is None:
        return url
    place = (folder / file).absolute()
    if _is_sqlite_uri(unquote(match["database"]), match["query"]):
        return f"{match['driver']}:///{quote(f'file:{quote(str(place))}', safe=':/')}?{match['query']}"
    return _plain_url(match["driver"], place, match["query"] or "")


def patient_url(url: str) -> str:
    """The URL as it is opened: with limits, where it names none, on how long a PostgreSQL server may be silent."""
    if _LIBPQ.match(url) is None:
        return url
    import sqlalchemy

    parts = sqlalchemy.make_url(url)
    missing = {name: value for name, value in _PATIENCE.items() if name not in parts.query}
    return parts.update_query_dict(missing).render_as_string(hide_password=False)


def same_database(one: str, other: str) -> bool:
    """Whether two absolute URLs name one database, however they are spelled."""
    files = sqlite_file(one), sqlite_file(other)
    if files[0] is not None and files[1] is not None:
        real = [os.path.realpath(file) for file in files if file is not None]
        return real[0] == real[1] or (all(map(os.path.exists, real)) and os.path.samefile(*real))
    if files != (None, None):
        return False
    servers = _server(one), _server(other)
    return servers[0] is not None and servers[0] == servers[1]


def _is_sqlite_uri(database: str, query: str | None) -> bool:
    """Whether the path is a URI of SQLite's own, as in sqlite:///file:mlflow.db?uri=true."""
    asked = parse_qs(query or "").get("uri", [""])[-1].strip().lower()
    return database.startswith("file:") and asked in ("true", "yes", "on", "y", "t", "1")


def _plain_url(driver: str, file: Path, query: str) -> str:
    """Only what SQLAlchemy would read otherwise is encoded. Before it opens a URL that begins with `sqlite:///`, MLflow
    makes the folder of the path as it stands there, which is another one where something is encoded: then the driver is
    named, which means the same.
    """
    path = str(file).replace("%", "%25").replace("?", "%3F")
    if driver == "sqlite" and path != str(file):
        driver = "sqlite+pysqlite"
    return f"{driver}:///{path}" + (f"?{query}" if query else "")


def _server(url: str) -> tuple[str, str, int | None, str, str] | None:
    """What tells a database on a server from others: program, host, port, name, and the options of the session, which
    may name a schema. None for what is no such address.
    """
    import sqlalchemy

    try:
        parts = sqlalchemy.make_url(url)
    except (sqlalchemy.exc.SQLAlchemyError, ValueError):
        return None
    program = parts.get_backend_name().replace("mariadb", "mysql")
    if program not in _PORTS:
        return None
    asked = {name: value if isinstance(value, str) else ",".join(value) for name, value in parts.query.items()}
    host = (parts.host or asked.get("host", "")).lower()
    port = str(parts.port or asked.get("port") or _PORTS[program])
    name = parts.database or asked.get("dbname") or parts.username or ""
    local = host in _LOCAL or host.startswith("/")
    return program, "" if local else host, int(port) if port.isdigit() else None, name, asked.get("options", "")
