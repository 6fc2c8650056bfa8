"""A study's records in one file: what tables are made of comes back."""

from __future__ import annotations

import gzip
import os
from pathlib import Path

import pytest

from dashboards.report.study import comparison_from, written
from dashboards.store.connection import StoreError
from dashboards.store.records_file import Recorded, read_records, records_bytes
from studies.spec import Study, load_study, shipped_studies
from tests.dashboards.guide.test_verdicts import by_gain, noise


def test_every_table_of_a_file_is_that_of_the_records_it_was_written_from(tmp_path: Path) -> None:
    study = Study.of(load_study(shipped_studies()["guide-quality"], ["replicates=4"]))
    records = tuple(by_gain(study, lambda v, c, r, t: 0.5 + noise(r, t, 0.1, len(v) + len(c)), points=5))
    whole = records_bytes(Recorded("guide-quality", records, ("Two runs left aside.",), ()))
    (tmp_path / "records.jsonl.gz").write_bytes(whole)
    found = read_records(tmp_path / "records.jsonl.gz")
    assert len(whole) < 700 * len(records)
    for everything in (False, True):
        tables = [comparison_from(study, runs, ["Two runs left aside."], ()) for runs in (records, found.records)]
        texts = [written(table, "text", 100, everything=everything) for table in tables]
        assert texts[0] == texts[1]
        assert "apo_zero: Best for" in texts[0]


@pytest.mark.parametrize("contents", [b"", b"plain", gzip.compress(b"[]\n"), gzip.compress(b'{"v": 9}\n')])
def test_a_file_that_is_none_is_refused_in_words(contents: bytes, tmp_path: Path) -> None:
    (tmp_path / "records.jsonl.gz").write_bytes(contents)
    with pytest.raises(StoreError, match="records"):
        read_records(tmp_path / "records.jsonl.gz")


def test_a_file_of_a_stranger_is_refused_whatever_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dashboards.store.records_file._MOST_BYTES", 1 << 20)
    deep, large, pipe = tmp_path / "deep.gz", tmp_path / "large.gz", tmp_path / "pipe.gz"
    deep.write_bytes(gzip.compress(b"[" * 200_000))
    large.write_bytes(gzip.compress(b"0" * (1 << 20)) * 2)
    os.mkfifo(pipe)
    for path, said in ((deep, "was edited"), (large, "holds more than 1 MiB"), (pipe, "is no regular file")):
        with pytest.raises(StoreError, match=said):
            read_records(path)
