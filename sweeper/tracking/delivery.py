"""Delivers entries (see `entries.py`) to MLflow, so that delivering one again changes nothing."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from dashboards.store.connection import StoreRefused, store_calls
from dashboards.store.mlflow_tags import SUPERSEDED, TICKET, Value
from studies.records import SAMPLES
from studies.samples.kept import SAMPLES_FOLDER
from studies.text.files import is_here_alone
from sweeper.tracking.entries import samples_text
from sweeper.tracking.experiment.study import OpenStudy
from sweeper.tracking.journal import TICKET_PREFIX, checked
from sweeper.tracking.outbox import Entry
from trainers.run_folder.kept_samples import sample_files
from trainers.run_folder.results import ADAPTER, adapter_files


class Delivery:
    """Writes the entries of one study to MLflow, and knows which id MLflow gave a run that was named by a ticket."""

    def __init__(self, client: Any, uri: str, study: OpenStudy, tell_user: Callable[[str], None]) -> None:
        self._client, self._uri, self._study, self._tell_user = client, uri, study, tell_user
        self._ours: set[str] = set()  # runs of this study that are in the journal
        self._run_ids: dict[str, str] = {}  # MLflow's, by ticket
        self._curve_ends: dict[str, dict[str, int]] = {}  # of each run: metric -> the last step that was written

    def id_of(self, ticket: str) -> str:
        """MLflow's id of a run, or the ticket until it has one."""
        return self._run_ids.get(ticket, ticket)

    def deliver(self, entry: Entry, again: bool) -> None:
        """Write one entry to MLflow. Writing it a second time changes nothing. See `outbox.Deliver`."""
        if again:  # out of the journal
            found = checked(entry)
            if found is None:
                raise StoreRefused("a damaged line")
            entry = found
        with store_calls(self._uri):
            if again:
                self._check_ours(entry["run"])
            match entry["do"]:
                case "start":
                    self._start(entry, again)
                case "curve":
                    self._write_values(self._real(entry["run"]), entry["curve"], [], {}, entry["time"])
                case "finish":
                    self._finish(entry)
                case "adopt":
                    for name, text in entry["tags"].items():
                        self._client.set_tag(self._real(entry["run"]), name, text)
                case "supersede":
                    self._supersede(entry)
                case "files":
                    for name, text in entry["files"].items():
                        self._client.log_text(entry["run"], text, name)
                case "adapter":
                    self._attach_adapter(entry)
                case "samples":
                    for file in alone(sample_files(self._study.runs / entry["key"]), self._tell_user):
                        self._client.log_artifact(self._real(entry["run"]), str(file), SAMPLES_FOLDER)
                case "close":
                    self._client.set_terminated(entry["run"], entry["status"], end_time=entry["time"])

    def _check_ours(self, run_id: str) -> None:
        """Raise StoreRefused for a run of another study."""
        if run_id in self._ours or run_id.startswith(TICKET_PREFIX):  # which `_real` looks for in this study alone
            return
        if self._client.get_run(run_id).info.experiment_id != self._study.experiment_id:
            raise StoreRefused(f"the run {run_id} that it belongs to is of another study")
        self._ours.add(run_id)

    def _real(self, run_id: str) -> str:
        """MLflow's id of a run that may have been started while it was away. Raises StoreRefused for a lost one."""
        if not run_id.startswith(TICKET_PREFIX):
            return run_id
        if run_id not in self._run_ids:
            found = self._client.search_runs([self._study.experiment_id], f"tags.{TICKET} = '{run_id}'", max_results=1)
            if not found:
                raise StoreRefused(f"the run {run_id} that it belongs to was never made")
            self._run_ids[run_id] = found[0].info.run_id
        return self._run_ids[run_id]

    def _start(self, entry: Entry, again: bool) -> None:
        from mlflow.entities import Param

        ticket = entry["run"]
        if again:  # an earlier try may have got this far
            with suppress(StoreRefused):
                self._real(ticket)
        if ticket not in self._run_ids:
            made = self._client.create_run(
                self._study.experiment_id, entry["time"], tags=entry["tags"], run_name=entry["name"]
            )
            self._run_ids[ticket] = made.info.run_id
        run_id = self._run_ids[ticket]
        self._curve_ends.setdefault(run_id, {})
        self._client.log_batch(run_id, params=[Param(key, value) for key, value in entry["params"].items()])
        self._client.log_text(run_id, entry["config"], "config.json")

    def _finish(self, entry: Entry) -> None:
        run_id = self._real(entry["run"])
        self._write_values(run_id, entry["curve"], entry["measured"], entry["tags"], entry["time"])
        if entry["dataset"]:
            from mlflow.entities import Dataset, DatasetInput, InputTag

            tags = [InputTag("mlflow.data.context", "training")]
            self._client.log_inputs(run_id, [DatasetInput(Dataset(**entry["dataset"]), tags)])
        if entry.get("samples"):  # a journal of an earlier version has none
            self._client.log_text(run_id, samples_text(entry["samples"]), SAMPLES)
        self._client.set_terminated(run_id, entry["status"], end_time=entry["time"])
        self._curve_ends.pop(run_id, None)

    def _write_values(
        self, run_id: str, curve: Sequence[Value], measured: Sequence[Value], tags: Mapping[str, str], at: int
    ) -> None:
        """Write what MLflow has not yet of a curve, and the rest, in one transaction. MLflow itself leaves out a value
        that it has with the same step and time.
        """
        from mlflow.entities import Metric, RunTag

        new = self._unwritten(run_id, curve)
        metrics = [Metric(name, float(value), at, step) for name, value, step in [*new, *measured]]
        if metrics or tags:
            self._client.log_batch(run_id, metrics=metrics, tags=[RunTag(k, v) for k, v in tags.items()])
        self._curve_ends[run_id].update({name: step for name, _, step in new})

    def _unwritten(self, run_id: str, values: Sequence[Value]) -> list[Value]:
        """The values past the last step of their name that MLflow has already."""
        if run_id not in self._curve_ends:
            self._curve_ends[run_id] = read_curve_ends(self._client, run_id, {name for name, _, _ in values})
        ends = self._curve_ends[run_id]
        return [(name, value, step) for name, value, step in values if step > ends.get(name, -1)]

    def _supersede(self, entry: Entry) -> None:
        run_id = self._real(entry["run"])
        self._client.set_tag(run_id, SUPERSEDED, entry["reason"])
        if self._client.get_run(run_id).info.status == "RUNNING":
            self._client.set_terminated(run_id, "KILLED", end_time=entry["time"])
        self._curve_ends.pop(run_id, None)

    def _attach_adapter(self, entry: Entry) -> None:
        """Attach what a trainer has written, and nothing else that lies there."""
        folder = self._study.runs / entry["key"]
        if not os.path.lexists(folder / ADAPTER):
            return  # another trial has become the best since
        files, others = adapter_files(folder)
        for file in alone(files, self._tell_user):
            self._client.log_artifact(self._real(entry["run"]), str(file), ADAPTER)
        if others:
            self._tell_user(f"Not attached to MLflow, as no trainer has written it: {', '.join(map(str, others))}")


def alone(files: Sequence[Path], tell_user: Callable[[str], None]) -> list[Path]:
    """The files that have no second name and so are sent to MLflow; the user is told of the others."""
    found = [file for file in files if is_here_alone(file)]
    others = [str(file) for file in files if file not in found]
    if others:
        tell_user(
            "Not attached to MLflow, as what has a second name (hard link) may be somebody else's file: "
            f"{', '.join(others)}. Where it is yours, put a copy in its place."
        )
    return found


def read_curve_ends(client: Any, run_id: str, names: set[str]) -> dict[str, int]:
    """The last step that an earlier process wrote of each name. Only after a crash, so its queries are rare."""
    written = names & set(client.get_run(run_id).data.metrics)
    return {name: max(m.step for m in client.get_metric_history(run_id, name)) for name in written}
