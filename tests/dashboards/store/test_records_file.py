"""A study's records in one file: what tables are made of comes back."""

from __future__ import annotations

import gzip
import os
from dataclasses import replace
from pathlib import Path

import pytest

from dashboards.report.study import comparison_from, comparison_in, written
from dashboards.store.connection import StoreError
from dashboards.store.records_file import Recorded, read_records, records_bytes
from studies.records import Measurer
from studies.samples.kept import with_scores
from studies.schema.contents import judge_sources
from studies.spec import Study, load_study, shipped_studies
from tests.dashboards.guide.test_verdicts import by_gain, noise
from tests.dashboards.tuned.judged import judged

JUDGE = Measurer(judge="function tests.benchmarks.carry_over.sentiment:score", content="sha256:1")
JUDGED = """
study: judged
base: {model_name_or_path: some/model, max_steps: 10}
data: {path: some/pairs}
baseline: sigmoid
variants: {sigmoid: {}, hinge: {}}
space: {beta: {values: [0.1, 0.2]}}
budget: {trials: 1}
replicates: 6
objective: {metric: win_rate, tie_within: 0.03}
evaluate:
  judge: {function: "tests.benchmarks.carry_over.sentiment:score"}
  second_judge: {function: "tests.benchmarks.carry_over.sentiment:_analyzer"}
"""


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


def test_a_file_of_a_study_with_a_judge_has_its_losses_meet_again(tmp_path: Path) -> None:
    (tmp_path / "judged.yaml").write_text(JUDGED)
    study = Study.of(load_study(tmp_path / "judged.yaml"))
    records, kept = judged({"sigmoid": [0.1] * 6, "hinge": [0.7, 0.6, 0.65, 0.62, 0.7, 0.66]}, judge=JUDGE)
    other = Measurer(judge="function tests.benchmarks.carry_over.sentiment:_analyzer", content="sha256:1")
    kept = {run: with_scores(of, other, dict(of.scores_by(JUDGE))) for run, of in kept.items()}
    judges = {str(source): "sha256:1" for source in judge_sources(study.spec.evaluation).values()}
    found = Recorded("judged", tuple(records), (), (), (), kept, judges)
    (tmp_path / "records.jsonl.gz").write_bytes(records_bytes(found))
    again = read_records(tmp_path / "records.jsonl.gz")
    assert (again.judges, again.kept) == (judges, kept)
    tables = [written(comparison_in(study, one), "text", 100, everything=False) for one in (found, again)]
    assert tables[0] == tables[1]
    assert "2nd judge" in tables[0]
    for changed in (replace(again, kept={}), replace(again, judges=dict.fromkeys(judges, "sha256:2"))):
        assert written(comparison_in(study, changed), "text", 100, everything=False) != tables[0]


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
