"""A study's records as one small file, from which its tables can be made again without a store.

Gzip of JSON lines: a head, a run a line, then what judges gave the samples of a judging run a line, without their
texts. Left out are samples to be read, what former evaluators had found, and curves that no table reads; numbers keep
seven digits, but for knobs, which say which run it is, and scores, of which it counts which one is larger.
"""

from __future__ import annotations

import gzip
import json
import os
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dashboards.store.connection import StoreError
from studies.records import ELSEWHERE, RunRecord
from studies.records.speed import Speed
from studies.samples.kept import KeptScores
from studies.text.files import UnusableFile, open_file, parse_json

_VERSION = 1
_WITH_KEPT = 2  # of files that hold lines which a reader of the first version does not know
_KEPT = "kept"  # the run id, in a line of what judges gave
_DIGITS = 7
_MOST_BYTES = 512 << 20  # of what a file unpacks to
# Curves that no table reads: gold and KL are read in nats a sequence, and the rest at the end.
_LEFT_OUT = frozenset({"gold_per_token", "distinct", "accuracy", "ranking_gain", "margin"})
_LINE = {"study", "former", "samples"}


@dataclass(frozen=True)
class Recorded:
    """What a study's tables are made of: its records, what there is to say of them, how fast its steps were, what was
    measured of models from elsewhere, and by run id what judges gave all samples of judging runs. `judges`: source, in
    words -> content of the judges as they were when these runs were measured.
    """

    study: str
    records: tuple[RunRecord, ...]
    notes: tuple[str, ...]
    speed: tuple[Speed, ...]
    yours: tuple[RunRecord, ...] = ()
    kept: Mapping[str, KeptScores] = field(default_factory=dict)
    judges: Mapping[str, str] = field(default_factory=dict)


def records_bytes(found: Recorded, keep: frozenset[str] = frozenset()) -> bytes:
    """The file's contents, the same for the same records. `keep`: curves that are kept though most tables read none."""
    speed = [one.model_dump(mode="json") for one in found.speed]
    head = {"v": _VERSION, "study": found.study, "notes": found.notes, "speed": speed}
    if found.kept:
        head |= {"v": _WITH_KEPT, "judges": dict(found.judges)}
    runs = [_line(record, keep) for record in (*found.records, *found.yours)]
    kept = [{_KEPT: run_id, "scores": of.model_dump(mode="json")} for run_id, of in found.kept.items()]
    lines = [head, *runs, *kept]
    text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in lines)
    return gzip.compress(text.encode(), compresslevel=9, mtime=0)


def read_records(path: Path) -> Recorded:
    """What a file holds. Raises StoreError where it cannot be read."""
    try:
        head, *lines = map(parse_json, _unpacked(path).decode().splitlines())
        if head.get("v") not in (_VERSION, _WITH_KEPT):
            raise StoreError(f"{path}: holds records of version {head.get('v')}, and this sweeper reads {_WITH_KEPT}.")
        kept = {str(line[_KEPT]): KeptScores.model_validate(line["scores"]) for line in lines if _KEPT in line}
        judges = {str(source): str(content) for source, content in head.get("judges", {}).items()}
        runs = (line for line in lines if _KEPT not in line)
        records = tuple(RunRecord.model_validate({**line, "study": head["study"]}) for line in runs)
        speed = tuple(map(Speed.model_validate, head["speed"]))
        own, yours = (tuple(r for r in records if (r.phase == ELSEWHERE) is other) for other in (False, True))
        return Recorded(head["study"], own, tuple(head["notes"]), speed, yours, kept, judges)
    except OSError as error:
        raise StoreError(f"{path}: {error.strerror or 'is no file that `sweeper records` wrote'}.") from None
    except (ValueError, KeyError, TypeError, AttributeError, EOFError, zlib.error):
        raise StoreError(f"{path}: is no file that `sweeper records` wrote, or was edited.") from None


def _unpacked(path: Path) -> bytes:
    with open_file(path, os.O_RDONLY, links=True) as file, gzip.GzipFile(fileobj=file) as packed:
        text = packed.read(_MOST_BYTES + 1)
    if len(text) > _MOST_BYTES:
        raise UnusableFile(path, f"holds more than {_MOST_BYTES >> 20} MiB, and records do not")
    return text


def _line(record: RunRecord, keep: frozenset[str]) -> dict[str, Any]:
    whole = record.model_dump(mode="json", exclude_defaults=True, exclude=_LINE)
    left_out = _LEFT_OUT - keep
    for part in ("curves", "curve_halves"):
        if part in whole:
            whole[part] = {name: points for name, points in whole[part].items() if name not in left_out}
    as_they_are = {"knobs": whole["knobs"]}  # which say which run it is
    times = {name: round(whole[name], 1) for name in ("started", "ended") if whole.get(name) is not None}
    return {name: seven_digits(value) for name, value in whole.items()} | as_they_are | times


def seven_digits(value: Any) -> Any:
    """The same with numbers of seven digits."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {name: seven_digits(one) for name, one in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [seven_digits(one) for one in value]
    return value
