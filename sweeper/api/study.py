"""A study, as Python has it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dashboards.report.frames import runs_frame, table_frame
from dashboards.report.study import figures_of
from studies.schema.replicates import by_condition
from sweeper.api.answers import Answer, Best, answer_in, best_in
from sweeper.api.exporting import export_to
from sweeper.api.figures import Figure
from sweeper.api.refusals import Refused, refusals, refuse
from sweeper.api.running import OnInterrupt, run_study
from sweeper.api.shown import Plan, Status, counted, planned, with_text
from sweeper.api.sources import Found, Source, read, source_of, stored

if TYPE_CHECKING:
    import pandas as pd

    from studies import spec


def load(
    study: str | Path | Mapping[str, Any],
    *,
    set: Mapping[str, Any] | None = None,
    records: str | Path | None = None,
) -> Study:
    """Load a study: a file, the name of a shipped one, or a mapping with the keys of a study file.

    `set` changes keys, as `--set` does: `{"budget.trials": 4}`. `records`: a file of `sweeper records` that everything
    is read from, in place of the MLflow store of the working folder. Raises Refused with every mistake at once.

    >>> study = load("quickstart", set={"replicates": 3})
    >>> study.name, study.baseline
    ('quickstart', 'sigmoid')
    >>> load("guide-smal")
    Traceback (most recent call last):
    sweeper.api.refusals.Refused: guide-smal: no such file, and no shipped study of this name ...
    """
    with refusals():
        source = source_of(study, set or {}, records)
        loaded = source.load(only_read=True)
    return Study(loaded.spec.study, loaded.spec.question, loaded.spec.baseline, source, loaded)


@dataclass(frozen=True, repr=False)
class Study:
    """A study file, and what is recorded of it in the working folder. Made by `load`."""

    name: str
    question: str
    baseline: str | None
    _source: Source = field(compare=False)
    _loaded: spec.Study = field(compare=False)

    @property
    def variants(self) -> tuple[str, ...]:
        """What is compared, by name: mostly losses."""
        return tuple(self._loaded.variants)

    @property
    def conditions(self) -> tuple[str, ...]:
        """The scenarios of the file, in each of which the variants are compared."""
        return tuple(by_condition(self._loaded.spec.scenarios))

    def plan(self, workers: int | None = None) -> Plan:
        """What a sweep would run, and what so many runs can show; trains and writes nothing."""
        from sweeper.cli.verbs.preparing import shown_plan

        with refusals():
            return planned(*with_text(lambda: shown_plan(self._source.load(), workers, everything=True)))

    def run(
        self,
        *,
        workers: int | None = None,
        executor: str = "process",
        storage: str | None = None,
        on_interrupt: OnInterrupt = "detach",
        leave_finished: bool = False,
    ) -> Status:
        """Train what is missing, in a process of its own, and follow it to its end; where a sweep of the study runs
        already, attach to that. So the same call goes on after a stop, and follows again after a kernel's restart.

        `on_interrupt`: what an interrupt (Ctrl-C, the stop button of a notebook) does: "detach" leaves the sweep
        running, "stop" stops it at the next step. `leave_finished`: go on though finished runs answer another study
        file. Raises Refused where the sweep does not begin, or finds that no run can be trained.
        """
        self._needs_store("run")
        with refusals():
            ended = run_study(
                self._source,
                self._loaded,
                workers=workers,
                executor=executor,
                storage=storage,
                on_interrupt=on_interrupt,
                leave_finished=leave_finished,
            )
        if ended is not None and ended.end is not None and ended.end.how == "refused":
            refuse(f"No run of {self.name} can be trained, and the sweep has ended: {ended.end.message}")
        return self.status()

    def stop(self, *, now: bool = False) -> None:
        """Stop the sweep that runs: once the runs in training have ended, or at the next step of each with `now`."""
        from sweeper.cli.verbs.running import asked_to_stop
        from sweeper.folder.paths import places

        self._needs_store("stop")
        with refusals():
            asked_to_stop(places(self._loaded.spec, Path.cwd(), None).runs, now=now)

    def status(self) -> Status:
        """How far the study is, and whether a sweep trains it."""
        from sweeper.cli.verbs.results import shown_status

        self._needs_store("status")
        with refusals():
            return counted(*with_text(lambda: shown_status(self._loaded, failed=False, prints=True)))

    def results(self) -> pd.DataFrame:
        """One row a run, oldest first: what it was, how it ended, its settings, and the last value of each metric.

        `superseded` runs do not answer what the study asks now; `superseded_because` says why. A metric whose name a
        setting has ends in `_measured`.
        """
        found = self._found()
        runs = sorted((*found.records, *found.others), key=lambda run: run.started or 0.0)
        return runs_frame(self._loaded.spec, runs, found.aside)

    def table(self) -> pd.DataFrame:
        """The short table: one row a loss in each condition, in its order. Gains and differences are in `unit`; U is
        the share of what is possible.
        """
        return table_frame(self._found().table)

    def answer(self, condition: str | None = None) -> Answer:
        """What the study says, in a condition where it has several."""
        where = self._condition(condition)
        return answer_in(self._found().table, where)

    @property
    def figures(self) -> Mapping[str, Figure]:
        """Its figures by name, drawn when they are asked for; "ranking" is the one beside the answer, "gains" without
        judging runs. A file of records has no curves of the training to draw.
        """
        found = self._found()
        with refusals():
            drawn = figures_of(self._loaded, found.records, found.table, stored=self._source.recorded is None)
        return {figure.name: Figure(figure.title, figure.caption, figure.svg) for figure in drawn}

    def best(self, variant: str | None = None, condition: str | None = None) -> Best:
        """The settings of the loss that the answer says to use, or of another one."""
        where, table = self._condition(condition), self._found().table
        said = answer_in(table, where)
        name = variant or said.use or said.start
        if name is None:
            refuse(f"{said.text} Name a loss to have its settings all the same: best(variant=...).")
        if name not in self.variants:
            refuse(f"variant {name!r}: the study has no such variant; it has {', '.join(self.variants)}.")
        found = best_in(table, where, name)
        if found is None:
            refuse(f"Nothing of {name} has been judged yet: run the study first.")
        return found

    def export(self, path: str | Path = "best.yaml", *, variant: str | None = None, trial: int | None = None) -> Path:
        """Write the best settings, or those of a variant or trial, as a file that `trl dpo --config` runs."""
        from sweeper.cli.inputs import refuse_output

        self._needs_store("export")
        with refusals():
            refuse_output(Path(path), self._source.study, self._loaded.spec)
            return export_to(Path(path), self._loaded, variant, trial)

    def _found(self) -> Found:
        if self._source.recorded is not None:
            return self._read
        with refusals():
            return stored(self._loaded)

    @cached_property
    def _read(self) -> Found:
        """What the file of records holds, which does not change."""
        assert self._source.recorded is not None
        return read(self._source.recorded, self._loaded)

    def _condition(self, name: str | None) -> str:
        if name is None and len(self.conditions) == 1:
            return self.conditions[0]
        if name not in self.conditions:
            wrong = "name one" if name is None else f"the study has no {name!r}"
            refuse(f"condition: {wrong}; it has {', '.join(self.conditions)}.")
        return name

    def _needs_store(self, what: str) -> None:
        if self._source.recorded is not None:
            refuse(f"{what}: the study is read from a file of records; load it without records=.")

    def __repr__(self) -> str:
        return f"<study {self.name}: {', '.join(self.variants)}>"

    def _repr_html_(self) -> str:
        head = f"<h3>{escape(self.name)}</h3><p>{escape(self.question)}</p>"
        try:
            found = self._found()
        except Refused as error:
            return f"{head}<p>{escape(str(error))}</p>"
        said = "".join(answer_in(found.table, name)._repr_html_() for name in self.conditions)
        return f"{head}{said}{table_frame(found.table).to_html(index=False, na_rep='')}"
