"""Where a study comes from: a file or a shipped name with changed keys, a mapping, and perhaps a file of records."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from dashboards.report.study import comparison_in, comparison_of
from dashboards.store.records_file import Recorded, read_records
from dashboards.tables.comparison import Comparison
from studies.design.answers import Answers
from studies.records import RunRecord
from studies.spec import Study
from sweeper.api.refusals import refuse
from sweeper.cli.shared import load, tell_whose
from sweeper.folder.names import ASKED_FILE
from sweeper.recorded.reading import answers_of

MAPPING = "study"  # what messages call a study that is no file
UNASKED = "the study file names no such variant, scenario, block or seed"


@dataclass(frozen=True)
class Source:
    """A study as it was asked for. `text`: of one that is a mapping; `settings`: as `--set` has them;
    `recorded`: of one that is read from a file, in place of the store.
    """

    study: str
    text: str | None
    settings: tuple[str, ...]
    recorded: Recorded | None

    def load(self, *, only_read: bool = False) -> Study:
        """The study; ends as a command does where it is refused. `only_read`: as `load_study` has it."""
        found = load(self.study, list(self.settings), self.text, only_read=only_read)
        if self.recorded is not None and self.recorded.study != found.spec.study:
            refuse(f"records: are of the study {self.recorded.study!r}, and {found.spec.study!r} is asked for.")
        return found

    def word(self, loaded: Study) -> str:
        """What a command calls the study."""
        folder = Path(loaded.spec.output.folder) / loaded.spec.study
        return self.study if self.text is None else str(folder / ASKED_FILE)


@dataclass(frozen=True)
class Found:
    """What is recorded of a study: the runs that answer it, others with the reason why they do not, and its table."""

    records: tuple[RunRecord, ...]
    aside: Mapping[str, str]
    others: tuple[RunRecord, ...]
    table: Comparison


def source_of(study: str | Path | Mapping[str, Any], changed: Mapping[str, Any], records: str | Path | None) -> Source:
    """The source of a study, with changed keys. Raises StoreError for records that cannot be read."""
    settings = tuple(f"{key}={_as_yaml(value, key)}" for key, value in changed.items())
    recorded = None if records is None else read_records(Path(records))
    if isinstance(study, Mapping):
        return Source(MAPPING, _as_yaml(dict(study), MAPPING, flow=False), settings, recorded)
    return Source(str(study), None, settings, recorded)


def stored(study: Study) -> Found:
    """What the store holds of a study. Raises StoreError."""
    tell_whose(study.spec)
    answers = answers_of(study)
    others = [run for runs in (*answers.aside.values(), answers.unasked) for run in runs]
    return Found(answers.records, _aside(answers), tuple(others), comparison_of(study, answers))


def read(found: Recorded, study: Study) -> Found:
    """What a file of records holds of a study."""
    return Found(found.records, {}, (), comparison_in(study, found))


def _aside(answers: Answers[RunRecord]) -> dict[str, str]:
    reasons = {run.run_id: reason for reason, runs in answers.aside.items() for run in runs}
    return {**dict.fromkeys((run.run_id for run in answers.unasked), UNASKED), **reasons}


def _as_yaml(value: Any, key: str, *, flow: bool = True) -> str:
    """A value as a study file has it; refuses what none can hold."""
    try:
        text: str = yaml.safe_dump(_plain(value), default_flow_style=flow, sort_keys=False, width=10**6)
    except yaml.YAMLError:
        refuse(f"{key}: holds what no study file can: write mappings, lists, text, numbers, truth values and None.")
    return text.removesuffix("...\n").strip() if flow else text


def _plain(value: Any) -> Any:
    """The value with paths as text, tuples as lists and numbers of numpy as numbers."""
    if isinstance(value, Mapping):
        return {name: _plain(inside) for name, inside in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inside) for inside in value]
    if isinstance(value, Path):
        return str(value)
    return value.item() if hasattr(value, "item") and not isinstance(value, str) else value
