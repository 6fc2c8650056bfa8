"""Records that are put back into a store: what stands in the way, and what comes of an interruption."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dashboards.store.mlflow_tags import to_record
from dashboards.store.records import load_records, record_tags
from dashboards.store.records_file import Recorded
from dashboards.store.sqlite_runs import StoredRun
from studies.records import Cause, Measurer, Numbers, RunRecord, State
from studies.spec import Study, StudySpec
from sweeper.commands.kept.restored import NotRestorable, Restored, restore_runs
from sweeper.folder.paths import places
from sweeper.tracking.tracker import Tracker
from tests.dashboards.generated import a_record

FILE: Mapping[str, Any] = {
    "study": "small",
    "base": {"model_name_or_path": "org/model", "max_steps": 2, "learning_rate": 1e-5},
    "data": {"path": "org/data"},
    "variants": {"sigmoid": {}, "mix": {"loss_type": ["sigmoid", "ipo"], "loss_weights": [0.5, 0.5]}},
}
HUB = {"base": "commit 1" + "a" * 39, "tokenizer": "commit 1" + "a" * 39, "data": "commit 2" + "b" * 39}


def study(**changes: Any) -> Study:
    return Study.of(StudySpec.model_validate({**FILE, **changes}))


def recorded(*runs: RunRecord) -> Recorded:
    return Recorded("small", runs, (), ())


def a_run(of: Study, variant: str = "sigmoid", seed: int = 0, content: Mapping[str, str] = {}) -> RunRecord:
    """A record as a sweep leaves it of a run of the study."""
    found = a_record(study="small", variant=variant, scenario="clean", seed=seed, block=0, trial=0, knobs={})
    found = found.model_copy(update={"content": dict(content), "question": "q"})
    return found.model_copy(update={"key": of.run_config(found).key})


def restore(of: Study, found: Recorded, folder: Path) -> Restored:
    return restore_runs(of, "text", found, places(of.spec, folder, None), lambda _: None)


def test_an_interrupted_restore_goes_on_with_the_same_call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    of = study(runs={"seeds": [0, 1, 2]})
    found = recorded(*(a_run(of, seed=seed) for seed in (0, 1, 2)))
    with monkeypatch.context() as broken:
        written: list[Any] = []
        plain = Tracker.write_recorded

        def write(self: Tracker, config: Any, record: RunRecord) -> None:
            if written:
                raise KeyboardInterrupt
            written.append(config)
            plain(self, config, record)

        broken.setattr(Tracker, "write_recorded", write)
        with pytest.raises(KeyboardInterrupt):
            restore(of, found, tmp_path)
    assert restore(of, found, tmp_path) == Restored(2, 1, 0)
    assert sorted(run.seed for run in load_records(f"sqlite:///{tmp_path / 'mlflow.db'}", "small")) == [0, 1, 2]


def test_runs_of_another_mixture_and_in_training_are_left_out(tmp_path: Path) -> None:
    of = study()
    other = a_run(of, "mix").model_copy(update={"knobs": {"loss_weights.hinge": 0.3}})
    training = a_run(of, seed=1).model_copy(update={"state": State.RUNNING, "cause": None})
    assert restore(of, recorded(a_run(of), other, training), tmp_path) == Restored(1, 0, 2)
    with pytest.raises(NotRestorable, match="no run that small asks for"):
        restore(of, recorded(other), tmp_path / "elsewhere")


def test_a_study_of_the_hub_has_the_commits_of_its_records(tmp_path: Path) -> None:
    """They are in the keys of its runs, and nobody is asked what the Hub has now."""
    of = study()
    pinned = of.holding({f"{what}": text for what, text in _sources(of, HUB).items()})
    run = a_run(pinned, content=HUB)
    assert run.key != a_run(of).key
    assert restore(of, recorded(run), tmp_path) == Restored(1, 0, 0)


def _sources(of: Study, content: Mapping[str, str]) -> dict[str, str]:
    from studies.schema.contents import sources

    config = of.run_config(a_record(study="small", variant="sigmoid", scenario="clean", knobs={}))
    return {str(s): content[role] for role, s in sources(config.settings, config.data).items() if role in content}


def test_a_file_is_not_restored_beside_other_runs_or_without_their_samples(tmp_path: Path) -> None:
    of = study(runs={"seeds": [0, 1]})
    restore(of, recorded(a_run(of)), tmp_path)
    with pytest.raises(NotRestorable, match="has 1 run of small that the file has not"):
        restore(of, recorded(a_run(of, seed=1)), tmp_path)
    with pytest.raises(NotRestorable, match="only tables"):
        restore(of, replace(recorded(a_run(of)), kept={"id": None}), tmp_path / "elsewhere")  # type: ignore[dict-item]
    assert not (tmp_path / "elsewhere").exists()


def test_tags_of_a_record_are_read_as_that_record() -> None:
    steps = tuple((step, step / 7) for step in range(1, 1500))
    record = a_record(study="small", cause=Cause.COLLAPSED, metrics={"gold": 1.0}).model_copy(
        update={
            "halves": {"gold": (0.25, 0.75)},
            "curves": {"gold": steps},
            "curve_halves": {"gold": ((1, 0.1, 0.2),)},
            "facts": {"device": "cpu", "message": "it fell", "non_finite": "loss"},
            "question": "q",
            "content": HUB,
            "former": (Numbers(by=Measurer(), gold=True, metrics={"gold": 0.5}, curves={"gold": steps}),),
        }
    )
    start = {name: str(getattr(record, name)) for name in ("key", "variant", "scenario", "trial", "block", "seed")}
    tags = start | {"attempt": str(record.attempt), "arm": record.phase} | record_tags(record)
    stored = StoredRun(record.run_id, "name", "FINISHED", tags=tags, metrics=dict(record.metrics))
    found = to_record("small", stored)
    told = found.model_copy(update={"knobs": record.knobs, "started": record.started, "ended": record.ended})
    assert told.model_dump() == record.model_dump()
