"""An older attempt at a run, whose worker was given up and lives on, ends before it writes over a later one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from sweeper.executors.elsewhere import fence as fence_module
from sweeper.executors.elsewhere.fence import Fence
from tests.waiting import wait_until
from trainers.interface import Job

MakeJob = Callable[..., Job]


@pytest.fixture(autouse=True)
def _looks_often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fence_module, "LOOK_SECONDS", 0.02)


def test_a_later_attempt_fences_the_earlier_one_off(make_job: MakeJob) -> None:
    job, older, newer = make_job("sleep"), list[str](), list[str]()
    Fence("a", older.append).begin(job)
    Fence("b", newer.append).begin(replace(job, attempt=2))
    wait_until(lambda: older, "it is not fenced off")
    assert older[0] == job.config.key
    assert newer == []
    assert (job.folder / "attempt").read_text() == "2 b\n"


def test_an_attempt_of_the_same_number_in_another_sweep_is_another(make_job: MakeJob) -> None:
    job, older = make_job("sleep"), list[str]()
    Fence("a", older.append).begin(job)
    Fence("b", lambda _: None).begin(job)
    wait_until(lambda: older, "it is not fenced off")


def test_a_result_is_not_sent_where_another_attempt_has_begun(
    make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fence_module, "LOOK_SECONDS", 1000.0)
    job, older = make_job("sleep"), list[str]()
    fence = Fence("a", older.append)
    fence.begin(job)
    Fence("b", lambda _: None).begin(job)
    fence.end(job.config.key)
    assert older == [job.config.key]


def test_a_run_that_has_ended_is_looked_at_no_more(make_job: MakeJob) -> None:
    job, older = make_job("sleep"), list[str]()
    fence = Fence("a", older.append)
    fence.begin(job)
    fence.end(job.config.key)
    Fence("b", lambda _: None).begin(job)
    fence.end(job.config.key)
    assert older == []
