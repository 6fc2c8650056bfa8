"""What Optuna's storage keeps of a study beside its strata: whose it is, and who runs it now; and what format 1 asked.

Decides nothing, and loads no Optuna to read. Owner and lease are attributes of an Optuna study of its own,
`STUDY/sweep`, without trials: strata are renamed and replaced when the study file changes, and the name of a study is a
unique row, however many make it at once. Reading and swapping go by SQL, as Optuna has neither a way to look into a
database without making its tables nor one to replace a value only where it is still what was read.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import sqlalchemy
from sqlalchemy import column, insert, select, table, update

from dashboards.store.addresses import patient_url, sqlite_file
from studies.design.identity import CONTEXT
from sweeper.search.storage import StorageError, connect_args, refusal, trouble

MARK, LEASE = "mark", "lease"
FREE = "null"  # a lease that nobody holds

_STUDIES = table("studies", column("study_id"), column("study_name"))
_ATTRIBUTES = table("study_user_attributes", column("study_id"), column("key"), column("value_json"))
_TRIALS = table("trials", column("trial_id"), column("study_id"), column("number"))
_ABOUT = table("trial_user_attributes", column("trial_id"), column("key"), column("value_json"))


@dataclass(frozen=True)
class Kept:
    """What the storage holds of a study: its mark, its lease as it is written, and the names of its strata."""

    mark: Mapping[str, str] | None = None
    lease: str = FREE
    strata: frozenset[str] = frozenset()


class Ledger:
    """The entry of one study in one storage. Raises StorageError where the storage cannot be used."""

    def __init__(self, url: str, study: str) -> None:
        self.url, self.study = url, study
        self._name = f"{study}/sweep"

    def read(self) -> Kept:
        """What is there; makes neither file nor table."""
        with self._reading() as connection:
            if connection is None:
                return Kept()
            names = self._names(connection)
            values = {row.key: row.value_json for row in connection.execute(self._attributes())}
        mark = json.loads(values[MARK]) if MARK in values else None
        strata = frozenset(name for name in names if name.count("/") == 2)
        return Kept(mark, values.get(LEASE, FREE), strata)

    def entries(self) -> dict[str, int]:
        """The names of all Optuna studies that are of this study, its own entry last, each with its trials."""
        found = select(_TRIALS.c.trial_id).join(_STUDIES, _TRIALS.c.study_id == _STUDIES.c.study_id)
        with self._reading() as connection:
            if connection is None:
                return {}
            known = connection.execute(select(_STUDIES.c.study_name).where(self._own())).scalars().all()
            names = [*(name for name in self._names(connection) if name.count("/") == 2), *known]
            return {
                name: len(connection.execute(found.where(_STUDIES.c.study_name == name)).all())
                for name in dict.fromkeys(names)
            }

    def remove(self, names: Collection[str]) -> None:
        """Remove Optuna studies of this study. The caller holds the lease. Raises StorageError."""
        import optuna

        from sweeper.search.storage import open_storage, storage_calls

        storage = open_storage(self.url)
        try:
            with storage_calls(self.url):
                for name in names:
                    optuna.delete_study(study_name=name, storage=storage)
        finally:
            storage.remove_session()
            storage.engine.dispose()

    def contexts(self) -> dict[str, str]:
        """The context of each stratum that format 1 made, those among them that were put aside; see `contexts_of`."""
        joined = _ATTRIBUTES.join(_STUDIES, _ATTRIBUTES.c.study_id == _STUDIES.c.study_id)
        found = select(_STUDIES.c.study_name, _ATTRIBUTES.c.value_json).select_from(joined)
        with self._reading() as connection:
            if connection is None:
                return {}
            rows = connection.execute(found.where(self._strata(), _ATTRIBUTES.c.key == CONTEXT)).all()
        return {name: str(json.loads(text)) for name, text in rows if name.startswith(f"{self.study}/")}

    def trials(self, stratum: str) -> dict[int, dict[str, Any]]:
        """What the trials of a stratum are about, by number; see `Search`."""
        joined = _TRIALS.join(_STUDIES, _TRIALS.c.study_id == _STUDIES.c.study_id)
        joined = joined.join(_ABOUT, _ABOUT.c.trial_id == _TRIALS.c.trial_id)
        found = select(_TRIALS.c.number, _ABOUT.c.value_json).select_from(joined)
        with self._reading() as connection:
            if connection is None:
                return {}
            mine = found.where(_STUDIES.c.study_name == stratum, _ABOUT.c.key == "trial")
            rows = connection.execute(mine).all()
        return {number: json.loads(json.loads(text)) for number, text in rows}

    def make(self) -> None:
        """Make the entry, and Optuna's tables where there are none."""
        import optuna

        from sweeper.search.storage import one_maker, open_storage, storage_calls

        with storage_calls(self.url):
            with one_maker(self.url):
                storage = open_storage(self.url)
            try:
                optuna.create_study(storage=storage, study_name=self._name, load_if_exists=True)
            finally:
                storage.remove_session()
                storage.engine.dispose()
        self._add(LEASE, FREE)

    def swap_lease(self, old: str, new: str) -> bool:
        """Replace the lease `old` by `new` where it is still that, in one statement; whether it was."""
        return self._swap(LEASE, old, new)

    def write_mark(self, mark: Mapping[str, str]) -> None:
        """Keep whose the study is. The caller holds the lease."""
        text = json.dumps(dict(mark))
        self._add(MARK, text)
        with self._calls() as connection:
            connection.execute(self._update(MARK).values(value_json=text))

    def _swap(self, key: str, old: str, new: str) -> bool:
        with self._calls() as connection:
            where = self._update(key).where(_ATTRIBUTES.c.value_json == old)
            return connection.execute(where.values(value_json=new)).rowcount == 1

    def _add(self, key: str, text: str) -> None:
        """Add an attribute where there is none of that name."""
        with suppress(sqlalchemy.exc.IntegrityError), self._calls() as connection:
            (study,) = connection.execute(select(_STUDIES.c.study_id).where(self._own())).scalars()
            connection.execute(insert(_ATTRIBUTES).values(study_id=study, key=key, value_json=text))

    def _strata(self) -> sqlalchemy.ColumnElement[bool]:
        return _STUDIES.c.study_name.startswith(f"{self.study}/", autoescape=True)

    def _names(self, connection: sqlalchemy.Connection) -> list[str]:
        """The names below the study's. SQLite also finds those of a study whose name has other capitals."""
        names = connection.execute(select(_STUDIES.c.study_name).where(self._strata()).order_by(_STUDIES.c.study_name))
        return [name for name in names.scalars() if name.startswith(f"{self.study}/")]

    def _own(self) -> sqlalchemy.ColumnElement[bool]:
        return _STUDIES.c.study_name == self._name

    def _attributes(self) -> sqlalchemy.Select[Any]:
        joined = _ATTRIBUTES.join(_STUDIES, _ATTRIBUTES.c.study_id == _STUDIES.c.study_id)
        return select(_ATTRIBUTES.c.key, _ATTRIBUTES.c.value_json).select_from(joined).where(self._own())

    def _update(self, key: str) -> sqlalchemy.Update:
        study = select(_STUDIES.c.study_id).where(self._own()).scalar_subquery()
        return update(_ATTRIBUTES).where(_ATTRIBUTES.c.study_id == study, _ATTRIBUTES.c.key == key)

    @contextmanager
    def _reading(self) -> Iterator[sqlalchemy.Connection | None]:
        """A connection to read by; None where the storage has no tables yet."""
        file = sqlite_file(self.url)
        if file is not None and not file.exists():
            yield None
            return
        with self._calls() as connection:
            known = sqlalchemy.inspect(connection)
            has_tables = known.has_table(_STUDIES.name) and known.has_table(_ATTRIBUTES.name)
            yield connection if has_tables else None

    @contextmanager
    def _calls(self) -> Iterator[sqlalchemy.Connection]:
        """A connection of its own for one transaction; what its database refuses is a StorageError."""
        try:
            engine = sqlalchemy.create_engine(
                patient_url(self.url), connect_args=connect_args(self.url), poolclass=sqlalchemy.pool.NullPool
            )
        except (sqlalchemy.exc.SQLAlchemyError, ImportError) as error:
            raise StorageError(refusal(self.url, error)) from error
        try:
            with engine.begin() as connection:
                yield connection
        except sqlalchemy.exc.IntegrityError:
            raise
        except (sqlalchemy.exc.SQLAlchemyError, OSError) as error:
            raise StorageError(trouble(self.url, error)) from error
