"""The speed of steps: measured once for a study and a kind of machine, after all training, in a process of its own that
loads torch, or by a worker where workers are elsewhere. Whatever becomes of it, the sweep goes on.
"""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Final

from dashboards.store.connection import StoreError, store_uri
from dashboards.store.histories import load_speed
from studies.design.speed import Asked, speed_asked
from studies.records import Cause, RunResult
from studies.records.speed import SPEED_FILE, Speed, speed_text
from studies.spec import Study
from studies.text.files import open_file, write_whole
from studies.text.plural import so_many
from sweeper.executors import Cancel, Dropped, Executor, Finished, Kill, Lost, Started, WorkerNews
from sweeper.executors.process.devices import usable_cores, visible_gpus, worker_environments
from sweeper.executors.waiting import result_of
from sweeper.folder.names import LOGS
from sweeper.folder.paths import StudyPaths
from sweeper.loop.progress import Progress, Screen
from sweeper.tracking.tracker import Tracker
from trainers.interface import Doing, Job
from trainers.speed.machine import machine_kind
from trainers.speed.request import (
    ANSWER_FACT,
    IN_A_WORKER,
    MACHINE_FACT,
    MODULE,
    REQUEST_FILE,
    TIMING,
    Answer,
    Line,
    News,
    Refusal,
    Request,
    from_line,
)

SILENT_SECONDS: Final = 600.0
"""A process that tells nothing for so long is ended: nothing that it does takes longer, but for a model that hangs."""
_LOG: Final = "speed.log"
_STOPPED: Final = "it was stopped. The next `sweeper run` measures it"


class SpeedMeter:
    """Measures the speed of a study's steps; `run` is the whole of it."""

    def __init__(self, tracker: Tracker, where: StudyPaths, screen: Screen) -> None:
        self._tracker, self._where, self._screen = tracker, where, screen
        self._process: subprocess.Popen[bytes] | None = None
        self._pool: Executor | None = None
        self._stopped = False

    def stop(self) -> None:
        """Measure no further."""
        self._stopped = True
        if self._process is not None:
            _end(self._process)
        if self._pool is not None:
            self._pool.stop(Cancel())

    finish_up = stop

    def run(self, study: Study, bf16: bool | None, begin: Callable[[], None]) -> None:
        """Measure here what is not measured yet on this kind of machine and keep it with the study's parent run; `bf16`
        as the sweep's runs have it. `begin` is called before that.
        """
        asked = speed_asked(study)
        if asked is None or not asked.is_any or self._stopped:
            return
        with self._telling():
            gpus = visible_gpus(os.environ)
            machine = machine_kind(_gpu(gpus[0]) if gpus else None, usable_cores())
            kept = self._kept(asked)
            if any((one.asked, one.machine) == (asked.digest, machine) for one in kept):
                return
            begin()
            self._announce(asked, "")
            self._keep(asked, kept, machine, self._measured(asked, bf16, gpus, study.spec.resources.env))

    def run_in(self, pool: Executor, study: Study, bf16: bool | None, devices: Collection[str]) -> None:
        """Let one of the workers measure it, where it was measured on none of the `devices` that have trained."""
        asked = speed_asked(study)
        if asked is None or not asked.is_any or self._stopped:
            return
        with self._telling():
            kept = self._kept(asked)
            known = {one.device for one in kept if one.asked == asked.digest}
            if known and (not devices or known & set(devices)):
                return
            self._announce(asked, " on a worker")
            result = self._asked_of_worker(pool, asked, bf16)
            if isinstance(result, Refusal):
                self._tell(result.message)
                return
            said, machine = from_line(str(result.facts[ANSWER_FACT])), json.loads(str(result.facts[MACHINE_FACT]))
            self._keep(asked, kept, machine, said)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Say what stands against it."""
        try:
            yield
        except (StoreError, OSError, ValueError) as error:
            self._tell(str(error))

    def _kept(self, asked: Asked) -> tuple[Speed, ...]:
        return load_speed(store_uri(self._where.tracking, self._where.folder), asked.study, self._where.folder)

    def _announce(self, asked: Asked, place: str) -> None:
        others = so_many(len(asked.runs) - 1, "variant")
        self._screen.tell_user(
            f"Timing the loss of {others} against that of {asked.baseline}{place}: up to 15 s once TRL is loaded"
            + (f", then {so_many(asked.check, 'round')} of whole steps." if asked.check else ".")
        )

    def _keep(self, asked: Asked, kept: Collection[Speed], machine: Mapping[str, str], said: Line) -> None:
        if not isinstance(said, Answer):
            self._tell(said.message if isinstance(said, Refusal) else "nothing was answered")
            return
        others = [one for one in kept if one.machine != machine]
        self._tracker.log_table({SPEED_FILE: speed_text([*others, _speed(asked, machine, said)])})

    def _asked_of_worker(self, pool: Executor, asked: Asked, bf16: bool | None) -> RunResult | Refusal:
        """The result of the worker that takes it. Its request lies in a folder that workers share with the sweep."""
        folder = self._where.runs / LOGS / "speed"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        request = Request(baseline=asked.baseline, runs=asked.runs, check=asked.check, bf16=bf16, folder=str(folder))
        write_whole(folder / REQUEST_FILE, request.model_dump_json())
        self._pool = pool
        try:
            pool.submit(Job(asked.runs[asked.baseline], folder, keep_adapter=False, trainer=IN_A_WORKER))
            return self._hear(pool, asked.runs[asked.baseline].key)
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _hear(self, pool: Executor, key: str) -> RunResult | Refusal:
        """The result of the job, which is shown meanwhile what its worker does; a job that no worker takes for long is
        dropped, and a worker that tells nothing for as long is killed.
        """
        heard, worker, doing = time.monotonic(), "", "no worker is free yet"
        while True:
            self._show(News(doing=doing))
            for event in pool.events(0.5):
                match event:
                    case Started(key=taken, worker=name) if taken == key:
                        heard, worker, doing = time.monotonic(), name, "loading TRL"
                    case WorkerNews(worker=name, news=Doing(what=what)) if name == worker:
                        heard, doing = time.monotonic(), what.removeprefix(TIMING) or doing
                    case Finished(key=ended) | Lost(key=ended) | Dropped(key=ended) if ended == key:
                        return self._of_worker(result_of(event))
            if time.monotonic() - heard > SILENT_SECONDS:
                pool.stop(Kill(key, Cause.TIME_LIMIT) if worker else Cancel(key))

    def _of_worker(self, result: RunResult) -> RunResult | Refusal:
        if result.cause is Cause.FINISHED:
            return result
        if self._stopped:
            return Refusal(message=_STOPPED)
        return Refusal(message=result.message or f"no worker came for it within {SILENT_SECONDS:.0f} s")

    def _tell(self, why: str) -> None:
        first = why.strip().partition("\n")[0].removesuffix(".")
        self._screen.tell_user(f"The speed of steps was not measured: {first}. All runs are kept.")

    def _measured(self, asked: Asked, bf16: bool | None, gpus: list[str], env: tuple[str, ...]) -> Answer | Refusal:
        """What the process answers, which is shown meanwhile what it does."""
        log = self._where.runs / LOGS / _LOG
        log.parent.mkdir(parents=True, exist_ok=True)
        with (
            tempfile.TemporaryDirectory(prefix="speed-") as aside,
            open_file(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT) as errors,
        ):
            request = Request(baseline=asked.baseline, runs=asked.runs, check=asked.check, bf16=bf16, folder=aside)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", MODULE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                env=_environment(gpus[:1], env),
                start_new_session=True,
            )
            try:
                return self._listen(self._process, request, log)
            finally:
                _end(self._process)

    def _listen(self, process: subprocess.Popen[bytes], request: Request, log: Path) -> Answer | Refusal:
        assert process.stdin is not None
        assert process.stdout is not None
        lines = queue.SimpleQueue[bytes]()
        threading.Thread(target=_read, args=(process.stdout, lines), daemon=True).start()
        with suppress(BrokenPipeError), process.stdin as pipe:
            pipe.write(request.model_dump_json().encode())
        heard, news = time.monotonic(), News(doing="loading TRL")
        while not self._stopped and time.monotonic() - heard < SILENT_SECONDS:
            self._show(news)
            try:
                line = lines.get(timeout=0.5)
            except queue.Empty:
                continue
            if not line and self._stopped:
                break
            if not line:
                return Refusal(message=f"its process ended with {process.wait()}; {log} says why")
            heard = time.monotonic()
            said: Line = from_line(line)
            if not isinstance(said, News):
                return said
            news = said
        if self._stopped:
            return Refusal(message=_STOPPED)
        return Refusal(message=f"its process told nothing for {SILENT_SECONDS:.0f} s; {log} says how far it was")

    def _show(self, news: News) -> None:
        self._screen.show(Progress(1, 0, 0, {}, None, news.left, "speed of steps", f"timing: {news.doing}"))


def _read(output: IO[bytes], lines: queue.SimpleQueue[bytes]) -> None:
    """Every line of the output, and an empty one at its end."""
    with output:
        for line in output:
            lines.put(line)
    lines.put(b"")


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the process and its children at once."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _environment(gpus: list[str], also: tuple[str, ...]) -> dict[str, str]:
    """That of a worker with the first GPU, which takes no code from the working folder."""
    (of_worker,) = worker_environments(1, gpus, usable_cores(), os.environ, also)
    modules = os.pathsep.join(path for path in sys.path if path)
    return {**of_worker, "PYTHONPATH": modules, "PYTHONSAFEPATH": "1"}


def _gpu(name: str) -> str:
    """The kind of a GPU that CUDA_VISIBLE_DEVICES names so, or that name."""
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader", "-i", name]
    with suppress(OSError, subprocess.SubprocessError):
        found = subprocess.run(query, capture_output=True, text=True, timeout=30, check=True).stdout.strip()
        return found.partition("\n")[0] or name
    return name


def _speed(asked: Asked, machine: Mapping[str, str], said: Answer) -> Speed:
    return Speed(
        asked=asked.digest,
        baseline=asked.baseline,
        machine=machine,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        **said.model_dump(exclude={"failed"}),
        failed={**asked.unlike, **said.failed},
    )
