"""Times the losses of a study in a worker, on its device: for sweeps whose workers are elsewhere.

A trainer as executors know one. The request lies in the job's folder; the answer is in the facts of its result.
"""

from __future__ import annotations

import json
import os
import traceback

import torch

from studies.records import Cause, RunResult
from trainers.interface import Decision, Doing, Job, WorkQueue
from trainers.models.accelerator import free_memory
from trainers.run_folder.failures import told
from trainers.speed.answer import answer
from trainers.speed.machine import machine_kind
from trainers.speed.request import ANSWER_FACT, MACHINE_FACT, REQUEST_FILE, TIMING, Line, Refusal, Request, to_line


class StepTimer:
    """See `trainers.interface.Trainer`."""

    def train(self, job: Job, queue: WorkQueue) -> None:
        """Answer the request; whatever stands against it is an answer too."""
        request = Request.model_validate_json((job.folder / REQUEST_FILE).read_text(encoding="utf-8"))
        threads, key = torch.get_num_threads(), job.config.key

        def news(doing: str, left: float | None = None) -> None:
            if queue.decision(key) is Decision.STOP:
                raise _Stopped
            queue.tell(Doing(f"{TIMING}{doing}"))

        free_memory()  # of the runs that this worker has trained
        said: Line
        try:
            said = answer(request, news)
        except _Stopped:
            queue.finish(RunResult(key=key, cause=Cause.USER_STOP))
            return
        except Exception as error:
            traceback.print_exc()
            said = Refusal(message=told(error))
        finally:
            queue.tell(Doing(""))
            torch.set_num_threads(threads)
        gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
        machine = machine_kind(gpu, len(os.sched_getaffinity(0)))
        facts = {ANSWER_FACT: to_line(said), MACHINE_FACT: json.dumps(machine)}
        queue.finish(RunResult(key=key, cause=Cause.FINISHED, facts=facts))


class _Stopped(Exception):
    """Nobody waits for the answer any more."""
