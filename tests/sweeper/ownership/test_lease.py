"""One sweep of a study at a time, from whatever folder or machine: with real databases and real processes."""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import optuna
import pytest

from dashboards.report import study as built
from sweeper.commands import run as session
from sweeper.folder.control import AlreadyRunning
from sweeper.ownership import lease
from sweeper.ownership.lease import Holder, LeaseLost, hold, this_process, watch
from sweeper.search.ledger import FREE, Ledger
from sweeper.search.storage import StorageError
from sweeper.tracking.tracker import Tracker
from tests.sweeper.forked import Forked
from tests.sweeper.slow_study import STUDY, TRAINERS
from tests.waiting import PATIENCE, wait_until

Sweeper = Callable[..., Any]


@pytest.fixture
def ledger(tmp_path: Path) -> Ledger:
    made = Ledger(f"sqlite:///{tmp_path}/optuna.db", "small")
    made.make()
    return made


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(lease, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(lease, "SILENT_SECONDS", 0.2)


def elsewhere(folder: Path, **changes: Any) -> Holder:
    return replace(this_process(folder), host="node7", machine="node7 boot", process=4711, user="alice", **changes)


def silent(_: str) -> None:
    pass


def test_a_second_folder_with_the_same_storage_is_refused_while_the_first_runs_and_takes_over_when_it_is_killed(
    sweeper: Sweeper, tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(TRAINERS)
    monkeypatch.setenv("STEP_SECONDS", "0.1")
    first, second = tmp_path / "first", tmp_path / "second"
    for folder in (first, second):
        folder.mkdir()
        (folder / "study.yaml").write_text(STUDY)
        shutil.copyfile(empty_mlflow, folder / "mlflow.db")
    url = f"sqlite:///{tmp_path}/optuna.db"
    sweep = Forked(first, "run", "study.yaml", "--workers", "2", "--storage", url)
    deadline = time.monotonic() + 300
    while not list((first / "runs").glob("*/*/result.json")):
        assert sweep.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    again = ("run", "study.yaml", "--executor", "inline", "--storage", url, "--set", "budget.trials=1")
    sweep.send_signal(signal.SIGSTOP)  # so that no trial ends by itself meanwhile; a stopped process is alive
    running = states(url)["RUNNING"]
    assert running
    refused = sweeper(second, *again)
    assert refused.returncode == 2, refused.stdout
    assert f"process {sweep.pid} of " in refused.stderr
    assert f" on {os.uname().nodename} in {first}" in refused.stderr
    assert "sweeper stop" in refused.stderr
    assert states(url)["RUNNING"] == running, "what the first one trains is not asked for again"
    assert not (second / "runs").exists()
    sweep.kill()
    sweep.wait(timeout=PATIENCE)
    monkeypatch.setattr(lease, "DEAD_SECONDS", 1e6)  # nobody waits for a process that is known to be gone
    taken = sweeper(second, *again)
    assert taken.returncode == 0, taken.stdout + taken.stderr
    assert states(url)["RUNNING"] == 0
    assert Ledger(url, "small").read().lease == FREE


@pytest.mark.slow
def test_where_the_file_system_knows_no_locks_the_lease_keeps_a_second_sweep_out(
    sweeper: Sweeper, tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on Lustre that is mounted without `flock`."""

    def flock(*_: object) -> None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.syspath_prepend(TRAINERS)
    monkeypatch.setenv("STEP_SECONDS", "0.1")
    (tmp_path / "study.yaml").write_text(STUDY)
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    sweep = Forked(tmp_path, "run", "study.yaml", "--workers", "2")
    try:
        wait_until(lambda: sweep.poll() is not None or list((tmp_path / "runs").glob("*/*/result.json")), "no run ends")
        assert sweep.poll() is None
        refused = sweeper(tmp_path, "run", "study.yaml", "--executor", "inline")
        assert refused.returncode == 2, refused.stdout
        assert "is being run already" in " ".join(refused.stderr.split())
    finally:
        sweep.kill()
        sweep.wait(PATIENCE)


def states(url: str) -> Counter[str]:
    names = optuna.get_all_study_names(url)
    return Counter(t.state.name for name in names for t in optuna.load_study(study_name=name, storage=url).trials)


def test_of_many_that_take_a_free_lease_at_once_one_has_it(ledger: Ledger, tmp_path: Path, quick: None) -> None:
    together, ended = threading.Barrier(5), threading.Event()
    had: list[str] = []

    def contend() -> None:
        together.wait()
        try:
            with hold(ledger, tmp_path, FREE, silent):
                had.append("held")
                ended.wait()
        except AlreadyRunning:
            had.append("refused")

    threads = [threading.Thread(target=contend) for _ in range(5)]
    for thread in threads:
        thread.start()
    while len(had) < 5:
        time.sleep(0.01)
    ended.set()
    for thread in threads:
        thread.join()
    assert Counter(had) == {"held": 1, "refused": 4}
    assert ledger.read().lease == FREE


def test_a_lease_of_another_machine_that_is_renewed_is_alive_whatever_its_clock_says(
    ledger: Ledger, tmp_path: Path, quick: None
) -> None:
    theirs = elsewhere(tmp_path, at=0.0)  # 1970
    assert ledger.swap_lease(FREE, theirs.written())
    over = threading.Event()

    def renew() -> None:
        holder = theirs
        while not over.wait(0.1):
            later = replace(holder, beat=holder.beat + 1)
            ledger.swap_lease(holder.written(), later.written())
            holder = later

    thread = threading.Thread(target=renew)
    thread.start()
    try:
        with pytest.raises(AlreadyRunning, match=r"process 4711 of alice on node7 in .*heard of just now"):
            watch(ledger, silent)
    finally:
        over.set()
        thread.join()


def test_a_lease_of_another_machine_that_is_not_renewed_is_taken_after_a_wait_that_is_told(
    ledger: Ledger, tmp_path: Path, quick: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lease, "DEAD_SECONDS", 0.6)
    theirs = elsewhere(tmp_path, at=time.time() + 1e6)  # its clock is ahead
    ledger.swap_lease(FREE, theirs.written())
    said: list[str] = []
    dead = watch(ledger, said.append)
    assert dead == theirs.written()
    assert len(said) == 1
    assert "Process 4711 of alice on node7" in said[0]
    assert "taken over once that is 0.6 s" in said[0]
    with hold(ledger, tmp_path, dead, said.append):
        assert str(os.getpid()) in ledger.read().lease


def test_a_process_that_has_the_id_of_a_dead_one_does_not_hold_its_lease(ledger: Ledger, tmp_path: Path) -> None:
    dead = replace(this_process(tmp_path), began="1").written()
    ledger.swap_lease(FREE, dead)
    assert watch(ledger, silent) == dead


def test_who_was_taken_over_writes_no_more(ledger: Ledger, tmp_path: Path, quick: None) -> None:
    with hold(ledger, tmp_path, FREE, silent) as held:
        held.check()
        theirs = elsewhere(tmp_path).written()
        while not ledger.swap_lease(ledger.read().lease, theirs):
            pass
        (thread,) = (thread for thread in threading.enumerate() if thread.name == "lease")
        thread.join(timeout=300)  # it ends when it finds the lease lost
        with pytest.raises(LeaseLost, match="taken the study 'small' over"):
            held.check()
    assert ledger.read().lease == theirs, "what is somebody else's is not let go"


def test_a_lease_is_let_go_after_an_error(ledger: Ledger, tmp_path: Path) -> None:
    with suppress(KeyboardInterrupt), hold(ledger, tmp_path, FREE, silent):
        assert ledger.read().lease != FREE
        raise KeyboardInterrupt
    assert ledger.read().lease == FREE


def test_reading_makes_no_database_and_no_table(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    assert Ledger(url, "small").read().lease == FREE
    assert not list(tmp_path.iterdir())
    (tmp_path / "optuna.db").touch()
    assert Ledger(url, "small").read().strata == frozenset()
    assert (tmp_path / "optuna.db").stat().st_size == 0


def test_studies_whose_names_begin_alike_are_kept_apart(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/optuna.db"
    for name in ("s_all", "s-all", "small"):
        Ledger(url, name).make()
        optuna.create_study(study_name=f"{name}/ipo/clean", storage=url)
    assert Ledger(url, "s_all").read().strata == {"s_all/ipo/clean"}


def test_a_renewal_that_was_taken_while_the_connection_broke_does_not_lose_the_lease(
    ledger: Ledger, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swap = Ledger.swap_lease

    def taken(self: Ledger, old: str, new: str) -> bool:
        assert swap(self, old, new)
        raise StorageError("the connection broke")

    with hold(ledger, tmp_path, FREE, silent) as held:
        with monkeypatch.context() as patch:
            patch.setattr(Ledger, "swap_lease", taken)
            with pytest.raises(StorageError):
                held.renew()
        held.renew()
        held.renew()
    assert ledger.read().lease == FREE


@pytest.mark.parametrize("phase", ["verify", "kept_files"])
def test_a_sweep_that_was_taken_over_writes_nothing_more_and_closes_nothing(
    sweeper: Sweeper, tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch, phase: str
) -> None:
    """In each phase that may take minutes the lease is looked at before the next thing is written."""
    written: list[str] = []
    lost = False

    @contextmanager
    def held(*_: object) -> Iterator[SimpleNamespace]:
        def check() -> None:
            if lost:
                raise LeaseLost("Another sweep has taken the study over.")

        yield SimpleNamespace(check=check, renew=check)

    def lose(plain: Callable[..., Any]) -> Callable[..., Any]:
        def losing(*arguments: Any) -> Any:
            nonlocal lost
            lost = True
            return plain(*arguments)

        return losing

    monkeypatch.setattr(session, "hold", held)
    owner = built if phase == "kept_files" else session
    monkeypatch.setattr(owner, phase, lose(getattr(owner, phase)))
    for name in ("log_table", "close_study", "start_run"):
        plain = getattr(Tracker, name)

        def noted(self: Tracker, *arguments: Any, plain: Any = plain, name: str = name, **named: Any) -> Any:
            written.extend([name] if lost else [])
            return plain(self, *arguments, **named)

        monkeypatch.setattr(Tracker, name, noted)
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    (tmp_path / "study.yaml").write_text(TAKEN)
    ended = sweeper(tmp_path, "run", "study.yaml", "--executor", "inline", "--verify", "1")
    assert ended.returncode == 1
    assert "taken the study over" in ended.stderr
    assert written == []


TAKEN = "study: small\ntrainer: formula\nbase: {model_name_or_path: m, max_steps: 4}\nvariants: {sigmoid: {}}\n"
