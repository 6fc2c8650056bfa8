"""Trainers for the tests of executors: they wait, raise, die or tell about the process that they run in."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

from studies.records import Cause, RunResult, Scalar
from trainers.interface import Decision, Doing, Job, Placement, Sized, Sizing, WorkQueue
from trainers.run_folder.results import write_result

FOREVER = 1200.0  # seconds, as in tests/waiting.py: whoever waits for the end has no patience for it


class Obedient:
    """Does what the setting `act` says, then tells about itself and its process."""

    def train(self, job: Job, desk: WorkQueue) -> None:
        print("training", job.config.seed)  # noqa: T201
        cause = self._act(str(job.config.settings["act"]), job, desk)
        facts: dict[str, Scalar] = {
            "trainer_object": id(self),
            "process": os.getpid(),
            "folder": str(Path.cwd()),
            "modules": " ".join(sorted({name.partition(".")[0] for name in sys.modules})),
            **{name: value for name, value in os.environ.items() if name.endswith("_NUM_THREADS")},
            **{name: value for name, value in os.environ.items() if name.startswith("MLFLOW_")},
            "gpus": os.environ.get("CUDA_VISIBLE_DEVICES"),
        }
        result = RunResult(key=job.config.key, cause=cause, facts=facts)
        write_result(job.folder, result)
        desk.finish(result)

    def _act(self, act: str, job: Job, desk: WorkQueue) -> Cause:
        match act:
            case "finish":
                desk.report(job.config.key, 1, {"loss": 0.5})
            case "tell":
                desk.tell(Doing("loading the model"))
                desk.tell(Sized("like", 4, Sizing("cpu", Placement(together=4), (), 0.1, 6, None)))
            case "diverge":
                return Cause.NON_FINITE
            case "raise":
                raise OSError("the disk is full")
            case "break the device":
                raise RuntimeError("CUDA error: an illegal memory access was encountered")
            case "exit":
                sys.exit("no device")
            case "flood":
                return flood(job, desk)
            case "until stopped":
                return until_stopped(job, desk)
            case "interrupt":
                raise KeyboardInterrupt
            case "sleep":
                leave_note(job)
                time.sleep(FOREVER)
            case "have a child":
                leave_note(job, subprocess.Popen(["sleep", str(FOREVER)]).pid)
                time.sleep(FOREVER)
            case "hold the lock":
                leave_note(job)
                ctypes.PyDLL(None).sleep(int(FOREVER))  # native code that keeps the interpreter's lock
            case "SIGKILL" | "SIGSEGV":
                os.kill(os.getpid(), signal.Signals[act])
            case "_exit":
                os._exit(3)
            case "_exit and leave a child":
                if (child := os.fork()) != 0:
                    leave_note(job, child)
                    os._exit(3)
                time.sleep(FOREVER)
        return Cause.FINISHED


class Unloadable:
    """Cannot be made."""

    def __init__(self) -> None:
        raise OSError("no device")


def leave_note(job: Job, child: int | None = None) -> None:
    """Tell the test, by a file's name, which process is in the middle of the run, and in it, which is its child."""
    job.folder.mkdir(parents=True, exist_ok=True)
    note = job.folder / "note"
    note.write_text(str(child))
    note.rename(job.folder / f"process-{os.getpid()}")


def until_stopped(job: Job, desk: WorkQueue) -> Cause:
    """Report every few milliseconds until told to stop, but not for ever."""
    leave_note(job)
    for step in range(1, int(FOREVER / 0.005)):
        if desk.report(job.config.key, step, {"loss": 0.5}) is Decision.STOP:
            return Cause.USER_STOP
        time.sleep(0.005)
    return Cause.TIME_LIMIT


def flood(job: Job, desk: WorkQueue) -> Cause:
    """Report far more than fits into a pipe, as fast as possible."""
    for step in range(1, 20_001):
        desk.report(job.config.key, step, {f"metric_{i}": float(step) for i in range(20)})
    return Cause.FINISHED
