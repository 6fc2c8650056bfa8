"""What holds for worker processes alone: how they die, what they may use, and that none outlives the sweep."""

from __future__ import annotations

import json
import os
import pickle
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Literal

import psutil
import pytest

from studies.records import Cause, RunResult
from sweeper.executors import Dropped, Event, Executor, Finished, Lost, Process, SetAside, Started, WorkerState
from sweeper.executors.door.frames import framed, read_frame
from sweeper.executors.door.greeting import Welcome, first_words, new_nonce, opened, sealed
from sweeper.executors.door.messages import Want, decode_event, encode
from sweeper.executors.door.shared import leave_mark
from sweeper.executors.process.team import local_team
from tests.waiting import FOREVER, PATIENCE, wait_until
from trainers.interface import Job

HERE = Path(__file__).parent
OBEDIENT = "executor_trainers:Obedient"
WELCOME = Welcome("worker", OBEDIENT)

MakeProcess = Callable[..., Process]
MakeJob = Callable[..., Job]
UntilEnded = Callable[[Executor, int], list[Event]]
StartSweep = Callable[[list[Job]], subprocess.Popen[str]]
StartWorker = Callable[..., tuple[subprocess.Popen[bytes], socket.socket]]


@pytest.fixture
def make_process(tmp_path: Path) -> Iterator[MakeProcess]:
    made: list[Process] = []

    def make(workers: int | None = 1) -> Process:
        made.append(Process(OBEDIENT, workers, tmp_path / "logs"))
        return made[-1]

    yield make
    for executor in made:
        executor.close(now=True)


def results(events: list[Event]) -> dict[str, RunResult]:
    return {event.key: event.result for event in events if isinstance(event, Finished)}


def wait_for_note(job: Job) -> Path:
    """The note that a process leaves once it is in the middle of the job."""
    wait_until(lambda: list(job.folder.glob("process-*")), "the job has not been started")
    return next(job.folder.glob("process-*"))


def process_of(job: Job) -> int:
    """The process that trains the job, once it is in the middle of it."""
    return int(wait_for_note(job).name.removeprefix("process-"))


def child_of(job: Job) -> int:
    """The child of the process that trains the job."""
    return int(wait_for_note(job).read_text())


def wait_for_result(job: Job) -> None:
    wait_until((job.folder / "result.json").exists, "the run has not ended")


def alive(process: int) -> bool:
    """Whether the process runs; one that has ended and waits to be reaped does not."""
    try:
        os.kill(process, 0)
        status = Path(f"/proc/{process}/stat")
        return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
    except (ProcessLookupError, FileNotFoundError):
        return False


def wait_for_end(process: int) -> None:
    """Until the process is gone, which it never is by itself."""
    wait_until(lambda: not alive(process), "a process lives on")


def test_a_worker_killed_in_the_middle_is_told_as_lost_and_the_next_job_is_trained(
    make_process: MakeProcess, make_job: MakeJob, until_ended: UntilEnded
) -> None:
    executor, killed, after = make_process(), make_job("sleep"), make_job("finish")
    executor.submit(killed)
    executor.submit(after)
    os.kill(process_of(killed), signal.SIGKILL)
    events = until_ended(executor, 2)  # it may have died before it said that it had begun
    (lost,) = [event for event in events if isinstance(event, Lost)]
    assert (lost.key, lost.worker) == (killed.config.key, "worker-0")
    assert lost.reason.startswith("the worker was killed by SIGKILL")
    assert lost.log_tail == "training 0"
    assert results(events)[after.config.key].cause is Cause.FINISHED


@pytest.mark.parametrize(
    ("act", "reason", "log"),
    [
        ("SIGSEGV", "the worker was killed by SIGSEGV", "Fatal Python error: Segmentation fault"),
        ("_exit", "the worker exited with code 3", "training 0"),
    ],
)
def test_a_worker_that_dies_by_itself_says_how(
    make_process: MakeProcess, make_job: MakeJob, until_ended: UntilEnded, act: str, reason: str, log: str
) -> None:
    executor = make_process()
    executor.submit(make_job(act))
    (lost,) = [event for event in until_ended(executor, 1) if isinstance(event, Lost)]
    assert lost.reason == reason
    assert log in lost.log_tail


def test_a_worker_whose_device_broke_is_followed_by_a_new_process(
    make_process: MakeProcess, make_job: MakeJob, until_ended: UntilEnded
) -> None:
    executor, jobs = make_process(), [make_job(act) for act in ("finish", "break the device", "tell")]
    for job in jobs:
        executor.submit(job)
    ended = results(until_ended(executor, 3))
    before, broken, after = (ended[job.config.key] for job in jobs)
    assert broken.cause is Cause.WORKER_LOST
    assert "illegal memory access" in broken.message
    assert after.cause is Cause.FINISHED
    assert after.facts["process"] != before.facts["process"]


def test_a_dead_worker_whose_child_holds_its_pipe_is_noticed_and_the_child_is_killed(
    make_process: MakeProcess, make_job: MakeJob, until_ended: UntilEnded
) -> None:
    executor, job = make_process(), make_job("_exit and leave a child")
    executor.submit(job)
    child = child_of(job)
    (lost,) = [event for event in until_ended(executor, 1) if isinstance(event, Lost)]
    assert lost.reason == "the worker exited with code 3"
    wait_for_end(child)


def test_a_warm_worker_gets_a_job_before_a_new_one_is_started(
    make_process: MakeProcess, make_job: MakeJob, until_ended: UntilEnded
) -> None:
    executor, processes = make_process(workers=2), set()
    for seed in range(3):
        executor.submit(make_job("finish", seed))
        processes |= {result.facts["process"] for result in results(until_ended(executor, 1)).values()}
    assert len(processes) == 1


def test_the_log_tail_of_a_lost_run_has_only_its_own_lines(
    make_process: MakeProcess,
    make_job: MakeJob,
    until_ended: UntilEnded,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("PYTHONUNBUFFERED", raising=False)
    executor = make_process()
    executor.submit(make_job("finish", 7))
    executor.submit(make_job("_exit", 8))
    (lost,) = [event for event in until_ended(executor, 2) if isinstance(event, Lost)]
    assert lost.log_tail == "training 8"
    assert (tmp_path / "logs" / "worker-0.log").read_text() == "training 7\ntraining 8\n"


def test_the_traceback_of_a_trainer_is_in_the_log(
    make_process: MakeProcess, make_job: MakeJob, until_ended: UntilEnded, tmp_path: Path
) -> None:
    executor = make_process()
    executor.submit(make_job("raise"))
    until_ended(executor, 1)
    log = (tmp_path / "logs" / "worker-0.log").read_text()
    assert "Traceback" in log
    assert "OSError: the disk is full" in log


def test_a_worker_killed_while_idle_is_replaced_and_no_run_is_lost(
    make_process: MakeProcess, make_job: MakeJob, until_ended: UntilEnded
) -> None:
    executor, first, second = make_process(), make_job("finish", 1), make_job("finish", 2)
    executor.submit(first)
    process = results(until_ended(executor, 1))[first.config.key].facts["process"]
    assert isinstance(process, int)
    os.kill(process, signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(process), "the executor has not noticed")
    executor.submit(second)
    assert results(until_ended(executor, 1))[second.config.key].facts["process"] != process


def test_a_dead_worker_is_replaced_while_one_that_was_set_aside_trains_on(
    make_process: MakeProcess, make_job: MakeJob, until_ended: UntilEnded
) -> None:
    executor, training, killed, after = make_process(workers=2), *map(make_job, ("sleep", "until stopped", "finish"))
    executor.submit(training)
    process_of(training)
    executor.stop(SetAside("worker-0"))
    executor.submit(killed)
    os.kill(process_of(killed), signal.SIGKILL)
    executor.submit(after)
    assert results(until_ended(executor, 2))[after.config.key].cause is Cause.FINISHED


def test_as_many_runs_as_slots_are_in_training_at_once(make_process: MakeProcess, make_job: MakeJob) -> None:
    executor = make_process(workers=2)
    jobs = [make_job("sleep", seed) for seed in range(3)]
    for job in jobs:
        executor.submit(job)
    assert len({process_of(job) for job in jobs[: executor.capacity.slots(together=1)]}) == 2
    time.sleep(0.3)
    assert {event.worker for event in executor.events(0) if isinstance(event, Started)} == {"worker-0", "worker-1"}
    assert not jobs[2].folder.exists()


def test_a_free_worker_gets_the_next_job_while_the_sweep_does_not_look(
    make_process: MakeProcess, make_job: MakeJob
) -> None:
    executor, jobs = make_process(), [make_job("finish", seed) for seed in range(5)]
    for job in jobs:
        executor.submit(job)
    wait_for_result(jobs[-1])
    assert (jobs[-1].folder / "result.json").exists()


def test_closing_now_kills_at_once_also_what_holds_the_lock_and_its_children(
    make_process: MakeProcess, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Nobody waits for them to end themselves.
    monkeypatch.setattr("sweeper.executors.process.handle.EXIT_SECONDS", FOREVER)
    executor, stuck, parent = make_process(workers=2), make_job("hold the lock"), make_job("have a child")
    executor.submit(stuck)
    executor.submit(parent)
    processes = [process_of(stuck), process_of(parent), child_of(parent)]
    closing = threading.Thread(target=executor.close, args=(True,), daemon=True)
    closing.start()
    closing.join(PATIENCE)
    if closing.is_alive():
        for process in processes:
            os.kill(process, signal.SIGKILL)
        raise AssertionError("it waits for workers that never end")
    for process in processes:
        wait_for_end(process)


def test_a_patient_close_can_be_followed_by_one_that_kills(make_process: MakeProcess, make_job: MakeJob) -> None:
    executor, stuck = make_process(), make_job("sleep")
    executor.submit(stuck)
    process = process_of(stuck)
    patient = threading.Thread(target=executor.close)
    patient.start()
    patient.join(0.3)
    assert patient.is_alive()
    executor.close(now=True)
    patient.join(PATIENCE)
    assert not patient.is_alive()
    assert not alive(process)


def test_closing_leaves_no_idle_worker(make_process: MakeProcess, make_job: MakeJob, until_ended: UntilEnded) -> None:
    executor, job = make_process(), make_job("finish")
    executor.submit(job)
    process = results(until_ended(executor, 1))[job.config.key].facts["process"]
    executor.close()
    assert isinstance(process, int)
    assert not alive(process)
    with pytest.raises(RuntimeError, match="takes no more jobs"):
        executor.submit(job)


SWEEP = """
import pickle, signal, sys
from pathlib import Path
from sweeper.executors import Cancel, Finished, Process

jobs = pickle.loads(Path(sys.argv[1]).read_bytes())
executor = Process("executor_trainers:Obedient", len(jobs), Path(sys.argv[2]))
signal.signal(signal.SIGINT, lambda *_: executor.stop(Cancel()))
for job in jobs:
    executor.submit(job)
ended = 0
while ended < len(jobs):
    for event in executor.events(60):
        if isinstance(event, Finished):
            ended += 1
            print(event.result.cause, flush=True)
executor.close()
"""


@pytest.fixture
def start_sweep(tmp_path: Path) -> Iterator[StartSweep]:
    """`start_sweep(jobs)`: another process that trains the jobs, each in a worker of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(jobs: list[Job]) -> subprocess.Popen[str]:
        (tmp_path / "jobs").write_bytes(pickle.dumps(jobs))
        command = [sys.executable, "-c", SWEEP, str(tmp_path / "jobs"), str(tmp_path / "logs")]
        environment = {**os.environ, "PYTHONPATH": str(HERE)}
        started.append(
            subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True, start_new_session=True)
        )
        return started[-1]

    yield start
    for sweep in started:
        sweep.kill()
        sweep.communicate()


def test_no_worker_lives_on_when_the_sweep_is_killed(start_sweep: StartSweep, make_job: MakeJob) -> None:
    jobs = [make_job("sleep"), make_job("until stopped")]
    if sys.platform == "linux":
        jobs.append(make_job("hold the lock"))
    sweep = start_sweep(jobs)
    processes = [process_of(job) for job in jobs]
    sweep.kill()
    for process in processes:
        wait_for_end(process)


@pytest.fixture
def start_worker() -> Iterator[StartWorker]:
    """`start_worker(welcome)`: a worker by itself, which has been let in, and this end of its connection."""
    started: list[subprocess.Popen[bytes]] = []

    def start(welcome: Welcome = WELCOME) -> tuple[subprocess.Popen[bytes], socket.socket]:
        key = "a key for tests alone"
        ours, theirs = socket.socketpair()
        words = ["ticket", f"fd:{theirs.fileno()}", str(os.getpid())]
        started.append(
            subprocess.Popen(
                [sys.executable, "-m", "sweeper.executors.process.worker", *words],
                env={**os.environ, "PYTHONPATH": str(HERE), "SWEEPER_KEY": key},
                pass_fds=[theirs.fileno()],
                start_new_session=True,
            )
        )
        theirs.close()
        nonce = new_nonce()
        ours.sendall(framed(first_words(nonce, [])))
        _, of_worker = opened(key.encode(), "worker", nonce, read_frame(ours))
        ours.sendall(framed(sealed(key.encode(), "sweep", (nonce, of_worker), welcome)))
        if welcome.folder is not None:
            assert json.loads(read_frame(ours))[0] == "shared"
            ours.sendall(framed(b'["in"]'))
        return started[-1], ours

    yield start
    for worker in started:
        worker.kill()
        worker.wait()


def test_a_worker_and_its_children_end_when_its_connection_ends(start_worker: StartWorker, make_job: MakeJob) -> None:
    (worker, connection), job = start_worker(), make_job("have a child")
    connection.sendall(framed(encode(job)))
    child = child_of(job)
    connection.close()
    assert worker.wait(PATIENCE) == -signal.SIGKILL
    wait_for_end(child)


def test_a_run_whose_folder_cannot_be_written_ends_and_its_worker_goes_on(
    start_worker: StartWorker, make_job: MakeJob, tmp_path: Path
) -> None:
    """On another machine, where every attempt leaves its mark in the run's folder before it trains."""
    _, connection = start_worker(Welcome("worker", OBEDIENT, str(tmp_path), *leave_mark(tmp_path)))
    (tmp_path / "file").touch()
    job, after = make_job("finish"), make_job("tell")
    assert decode_event(read_frame(connection), "worker") == Want(None)
    connection.sendall(framed(encode(replace(job, folder=tmp_path / "file" / "run"))))
    assert decode_event(read_frame(connection), "worker") == Started(job.config.key, "worker")
    ended = decode_event(read_frame(connection), "worker")
    assert isinstance(ended, Finished)
    assert (ended.key, ended.result.cause) == (job.config.key, Cause.INFRASTRUCTURE)
    assert "Not a directory" in ended.result.message
    assert decode_event(read_frame(connection), "worker") == Want(None)
    connection.sendall(framed(encode(after)))
    wait_for_result(after)


def test_a_sweep_that_does_not_read_keeps_no_worker_waiting(start_worker: StartWorker, make_job: MakeJob) -> None:
    (_, connection), job = start_worker(), make_job("flood")
    connection.sendall(framed(encode(job)))
    wait_for_result(job)
    events = [decode_event(read_frame(connection), "worker")]
    while not isinstance(events[-1], Finished):
        events.append(decode_event(read_frame(connection), "worker"))
    assert 100 <= len(events) < 5000  # 20 000 were reported


def test_reports_that_the_sweep_does_not_read_are_left_out_and_a_finish_is_not(
    make_process: MakeProcess, make_job: MakeJob, until_ended: UntilEnded, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sweeper.executors.process.pump.REPORTS_WAITING", 50)
    executor, job = make_process(), make_job("flood")
    executor.submit(job)
    wait_for_result(job)
    time.sleep(0.2)
    events = until_ended(executor, 1)
    assert len(events) <= 50 + 1
    assert isinstance(events[-1], Finished)


def test_an_interrupt_from_the_terminal_reaches_the_sweep_and_not_its_workers(
    start_sweep: StartSweep, make_job: MakeJob
) -> None:
    job = make_job("until stopped")
    sweep = start_sweep([job])
    process_of(job)
    os.killpg(sweep.pid, signal.SIGINT)
    output, _ = sweep.communicate(timeout=PATIENCE)
    assert output == "user_stop\n"
    assert sweep.returncode == 0


def test_workers_share_the_cores_and_are_not_handed_the_stores(
    make_process: MakeProcess, make_job: MakeJob, until_ended: UntilEnded, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", "secret")
    monkeypatch.setattr("sweeper.executors.process.team.usable_cores", lambda: 6)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5")
    executor, jobs = make_process(workers=2), [make_job("finish", seed) for seed in range(8)]
    for job in jobs:
        executor.submit(job)
    facts = [result.facts for result in results(until_ended(executor, 8)).values()]
    assert {fact["OMP_NUM_THREADS"] for fact in facts} == {"3"}
    assert {fact["MKL_NUM_THREADS"] for fact in facts} == {"3"}
    assert {fact["gpus"] for fact in facts} <= {"4", "5"}
    assert not any("MLFLOW_TRACKING_PASSWORD" in fact for fact in facts)


def test_a_worker_loads_neither_the_stores_nor_torch(
    make_process: MakeProcess, make_job: MakeJob, until_ended: UntilEnded
) -> None:
    import optuna  # the sweep itself has them
    import torch

    assert optuna
    assert torch
    executor, job = make_process(), make_job("finish")
    executor.submit(job)
    loaded = set(str(results(until_ended(executor, 1))[job.config.key].facts["modules"]).split())
    assert "pydantic" in loaded
    assert not loaded & {"optuna", "mlflow", "torch", "transformers", "datasets", "numpy"}


def test_workers_that_cannot_be_started_are_an_error_of_the_sweep(
    make_process: MakeProcess, make_job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    executor = make_process()
    monkeypatch.setattr(sys, "executable", str(tmp_path / "nothing"))
    executor.submit(make_job("finish"))
    with pytest.raises(RuntimeError, match=r"cannot be run any more.*No such file"):
        executor.events(5)


def test_no_workers_at_all_is_refused(make_process: MakeProcess) -> None:
    with pytest.raises(ValueError, match="must be 1 or more, but it is 0"):
        make_process(workers=0)


def test_the_states_of_a_worker_are_told(make_process: MakeProcess, make_job: MakeJob) -> None:
    executor, job = make_process(), make_job("SIGKILL")
    executor.submit(job)
    seen: list[Event] = []

    def is_lost() -> bool:
        seen.extend(executor.events(0.1))
        return any(isinstance(event, Lost) for event in seen)

    wait_until(is_lost, "it lives")
    executor.close()
    states = [event for event in [*seen, *executor.events(0)] if isinstance(event, WorkerState)]
    assert [state.state for state in states] == ["asked", "here", "gone"]
    assert {state.worker for state in states} == {"worker-0"}
    assert len({state.place for state in states}) == 1
    assert "SIGKILL" in states[-1].why


def test_a_worker_that_waits_for_its_place_is_given_nothing_and_can_be_done_without(
    make_job: MakeJob, tmp_path: Path
) -> None:
    launcher = _Queued()
    executor = Process(OBEDIENT, 1, tmp_path / "logs", team=partial(local_team, launcher=launcher))
    executor.submit(make_job("finish"))
    seen: list[Event] = []

    def is_asked_for() -> bool:
        seen.extend(executor.events(0.1))
        return len(seen) > 1

    wait_until(is_asked_for, "nobody asks for a worker")
    executor.close(now=True)
    seen += executor.events(0)
    assert [event.state for event in seen if isinstance(event, WorkerState)] == ["asked", "waiting", "gone"]
    assert sum(isinstance(event, Dropped) for event in seen) == 1
    assert launcher.killed


def test_workers_that_cannot_begin_are_not_started_without_end(make_job: MakeJob, tmp_path: Path) -> None:
    """As after an upgrade under a sweep: each would end as the one before, and take all of the machine for it."""
    launcher = _Broken()
    executor = Process(OBEDIENT, 1, tmp_path / "logs", team=partial(local_team, launcher=launcher))
    executor.submit(make_job("finish"))
    told = r"3 workers in a row ended before they could take a job \(worker-0: .*says why"
    with pytest.raises(RuntimeError, match=told):
        list(iter(lambda: executor.events(0.1), None))
    assert launcher.launched == 3
    executor.close()


class _Broken:
    """A launcher of workers that end at once, and the handle of each."""

    place, connection, launched = "process 7", None, 0

    def launch(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> _Broken:
        self.launched += 1
        return self

    def state(self) -> Literal["gone"]:
        return "gone"

    def begin(self) -> None:
        pass

    def kill(self) -> None:
        pass

    def why(self) -> tuple[Cause, str]:
        return Cause.WORKER_LOST, "the worker exited with code 1"


class _Queued:
    """A launcher, and the handle of its one worker, which waits for its place until it is killed."""

    place, connection, killed = "job 7", None, False

    def launch(self, name: str, command: Sequence[str], environment: Mapping[str, str], log: Path) -> _Queued:
        return self

    def state(self) -> Literal["waiting", "gone"]:
        return "gone" if self.killed else "waiting"

    def begin(self) -> None:
        pass

    def kill(self) -> None:
        self.killed = True

    def why(self) -> tuple[Cause, str]:
        return Cause.WORKER_LOST, "it was cancelled"
