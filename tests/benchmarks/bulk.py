"""Writes what a tracker would write to an MLflow SQLite store, thousands of runs at once; artifacts are left out.

A `Tracker` whose outbox is a `Collector` says what to write; `write` puts that into the tables, through the models of
the installed MLflow. Its own client takes about 40 ms for each run.
"""

from __future__ import annotations

import uuid
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from mlflow.store.tracking.dbmodels import models
from sqlalchemy import create_engine, insert

from dashboards.store.mlflow_tags import SUPERSEDED
from sweeper.tracking.outbox import Entry
from sweeper.tracking.tracker import Tracker

Rows = dict[Any, list[dict[str, Any]]]
BATCH = 20_000


class Collector:
    """Keeps what a tracker sends, in the place of its outbox."""

    waiting = 0

    def __init__(self) -> None:
        self.entries: list[Entry] = []

    def send(self, entry: Entry) -> None:
        """Keep an entry."""
        self.entries.append(entry)


def collected(tracker: Tracker) -> list[Entry]:
    """The list that gets all that the tracker, whose study is open, is asked to write from now on."""
    collector = Collector()
    tracker._outbox = collector  # type: ignore[assignment]
    return collector.entries


class Bulk:
    """Turns entries into rows of one experiment of a store; `write` may be called again for further runs."""

    def __init__(self, uri: str, experiment_id: str, artifacts: str) -> None:
        self._uri, self._experiment_id, self._artifacts = uri, int(experiment_id), artifacts
        self._datasets: dict[tuple[str, str], str] = {}

    def write(self, entries: Sequence[Entry]) -> None:
        """Write whole runs in one transaction: `start`, `finish` and `supersede` entries."""
        of_run: dict[str, list[Entry]] = defaultdict(list)
        for entry in entries:
            of_run[entry["run"]].append(entry)
        rows: Rows = defaultdict(list)
        for of in of_run.values():
            self._add_run(rows, of)
        order = [models.SqlDataset, models.SqlRun, models.SqlTag, models.SqlParam, models.SqlMetric,
                 models.SqlLatestMetric, models.SqlInput, models.SqlInputTag]  # fmt: skip
        engine = create_engine(self._uri)
        with engine.begin() as connection:
            for model in order:
                for start in range(0, len(rows[model]), BATCH):
                    connection.execute(insert(model), rows[model][start : start + BATCH])
        engine.dispose()

    def _add_run(self, rows: Rows, entries: Sequence[Entry]) -> None:
        run_id, start, tags = uuid.uuid4().hex, entries[0], dict(entries[0]["tags"])
        info = {"status": "RUNNING", "end_time": None}
        for entry in entries[1:]:
            if entry["do"] == "supersede":
                tags[SUPERSEDED] = entry["reason"]
            else:
                tags |= entry["tags"]
                info = {"status": entry["status"], "end_time": entry["time"]}
                self._add_metrics(rows, run_id, entry)
                self._add_dataset(rows, run_id, entry["dataset"])
        tags["mlflow.runName"] = start["name"]
        rows[models.SqlRun].append({
            "run_uuid": run_id, "name": start["name"], "source_type": "UNKNOWN", "source_name": "",
            "entry_point_name": "", "user_id": "unknown", "start_time": start["time"], "source_version": "",
            "lifecycle_stage": "active", "artifact_uri": f"{self._artifacts}/{run_id}/artifacts",
            "experiment_id": self._experiment_id, **info,
        })  # fmt: skip
        rows[models.SqlTag] += [{"key": key, "value": value, "run_uuid": run_id} for key, value in tags.items()]
        params = start["params"].items()
        rows[models.SqlParam] += [{"key": key, "value": value, "run_uuid": run_id} for key, value in params]

    def _add_metrics(self, rows: Rows, run_id: str, entry: Entry) -> None:
        last: dict[str, dict[str, Any]] = {}
        for name, value, step in [*entry["curve"], *entry["measured"]]:
            row = {
                "key": name, "value": float(value), "timestamp": entry["time"], "step": step, "is_nan": False,
                "run_uuid": run_id,
            }  # fmt: skip
            rows[models.SqlMetric].append(row)
            if name not in last or step >= last[name]["step"]:
                last[name] = row
        rows[models.SqlLatestMetric] += last.values()

    def _add_dataset(self, rows: Rows, run_id: str, dataset: Mapping[str, str] | None) -> None:
        if not dataset:
            return
        content = (dataset["name"], dataset["digest"])
        if content not in self._datasets:
            self._datasets[content] = uuid.uuid4().hex
            rows[models.SqlDataset].append({
                "dataset_uuid": self._datasets[content], "experiment_id": self._experiment_id, "name": content[0],
                "digest": content[1], "dataset_source_type": dataset["source_type"],
                "dataset_source": dataset["source"],
            })  # fmt: skip
        edge = uuid.uuid4().hex
        rows[models.SqlInput].append({
            "input_uuid": edge, "source_type": "DATASET", "source_id": self._datasets[content],
            "destination_type": "RUN", "destination_id": run_id,
        })  # fmt: skip
        rows[models.SqlInputTag].append({"input_uuid": edge, "name": "mlflow.data.context", "value": "training"})
