"""Facts about what hardware and placement decide: on a GPU a pack goes without checkpointing as long as it can."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from studies.records import RunConfig
from tests.trainers.pack_runs import config
from trainers.components.settings import run_settings
from trainers.dpo import _smaller
from trainers.interface import Job, Placement
from trainers.models import accelerator


@pytest.fixture(autouse=True)
def gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Torch says that there is a GPU."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(accelerator, "computes_bf16", lambda: True)


def run(**settings: Any) -> RunConfig:
    """A run whose study says nothing of checkpointing but this."""
    whole = config(**settings)
    kept = {n: v for n, v in whole.settings.items() if n != "gradient_checkpointing" or n in settings}
    return whole.model_copy(update={"settings": kept})


def checkpointing(place: Placement, **settings: Any) -> Any:
    return run_settings(Job(run(**settings), Path("run"), placement=place)).get("gradient_checkpointing")


def test_a_pack_begins_without_checkpointing_and_trls_own_loop_as_trl_has_it() -> None:
    assert checkpointing(Placement(together=8)) is False
    assert checkpointing(Placement(together=0)) is None  # TRL's default, which is on
    assert checkpointing(Placement(together=8, checkpointing=True)) is True
    assert checkpointing(Placement(together=0, checkpointing=True)) is True


def test_what_a_study_asks_stays() -> None:
    assert checkpointing(Placement(together=8), gradient_checkpointing=True) is True
    assert checkpointing(Placement(together=0), gradient_checkpointing=False) is False


def test_a_run_that_does_not_fit_is_cut_first_and_then_checkpointed() -> None:
    """Parts cost least, checkpointing a third of a pass."""
    job: Job | None = Job(run(), Path("run"), placement=Placement(together=8))
    seen = []
    while job is not None:
        seen.append((job.placement.split, bool(run_settings(job)["gradient_checkpointing"])))
        job = _smaller(job)
    assert seen == [(1, False), (2, False), (4, False), (4, True)]


def test_a_run_that_asked_for_checkpointing_has_nothing_left_but_parts() -> None:
    job = Job(run(gradient_checkpointing=True), Path("run"), placement=Placement(together=8, split=4))
    assert _smaller(job) is None
    assert _smaller(replace(job, placement=Placement(together=8, split=2))) is not None
