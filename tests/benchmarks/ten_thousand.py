"""How long `sweeper table` takes from ten thousand recorded runs, and how much memory. Needs no model.

    python -m tests.benchmarks.ten_thousand [--runs 10000] [--server] [--keep FOLDER]

Fills an MLflow SQLite store with generated runs as a sweep over 12 variants in 3 scenarios leaves them: Sobol configs
on 10 blocks, some of them failed, superseded or in training, a confirm arm on 16 blocks, and for each run the tags of
an embedded run, 72 values of a training curve and its measurements. 50 of them are written by the tracker itself too
and must read back equal. Then calls the command as a user does, each time as a new process: the first time with the
store out of the file cache, again, after 100 more runs, and in other formats. `--server`: also through an MLflow server
on that store, whose runs come by HTTP. `--keep`: leaves store and study there.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from dashboards.store.records import load_records
from studies.design.identity import questions
from studies.design.points import planned_points
from studies.records import Cause, DataConfig, EvaluationConfig, Measurement, RunConfig, RunRecord, RunResult, Scalar
from studies.spec import Study, StudySpec, arms, load_study
from sweeper.tracking.tracker import Tracker
from tests.benchmarks.bulk import Bulk, collected
from tests.dashboards.generated import pool

LOSSES = (
    "sigmoid", "ipo", "hinge", "robust", "bco_pair", "discopop", "apo_zero", "apo_down", "nca_pair", "exo_pair", "aot",
    "sppo_hard",
)  # fmt: skip
SCENARIOS = ("clean", "flips", "small")
BLOCKS, CONFIRM = tuple(range(10)), tuple(range(10, 26))
EQUAL, MORE = 50, 100
STUDY = """
study: ten-thousand
base: {{model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 120}}
data: {{path: embedded, rows: 2048}}
baseline: sigmoid
variants: {{{variants}}}
space: {{beta: {{low: 0.05, high: 1.0, log: true}}, learning_rate: {{low: 1.0e-4, high: 3.0e-3, log: true}}}}
scenarios: {{clean: {{}}, flips: {{label_flip: 0.2}}, small: {{rows: 256}}}}
runs: {{blocks: {blocks}}}
confirm: {{blocks: {confirm}}}
objective: {{metric: gold}}
budget: {{trials: {trials}}}
"""
OWN = {
    "robust": "{base: {label_smoothing: 0.1}}",
    "exo_pair": "{base: {label_smoothing: 0.001}}",
    "discopop": "{base: {discopop_tau: 0.2}}",
}
FACTS = {
    "source": "embedded", "rows_read": 2560, "train_rows": 2048, "eval_rows": 512, "prompts": 30, "train_too_long": 0,
    "eval_too_long": 0, "prompt_held_out": 0, "flipped": 0, "length_baseline": 0.44, "conversational": False,
    "device": "cpu", "bf16": False, "fp16": False, "use_cpu": True, "gradient_checkpointing": False,
    "dtype": "float32", "threads": 1, "torch": "2.13.0+cpu", "transformers": "5.23.0", "steps": 120, "together": 2,
}  # fmt: skip
ALSO = (
    "chosen_shift", "rejected_shift", "ranking_gain", "length_baseline", "train_accuracy", "entropy", "distinct",
    "kl_per_token", "gold_per_token", "train_seconds", "evaluation_seconds", "tokens_per_second", "peak_memory",
)  # fmt: skip
UNMEASURED = frozenset({"train_seconds", "evaluation_seconds", "steps_per_second", "tokens_per_second", "peak_memory"})
CURVE = ("loss", "grad_norm", "learning_rate", "reward_margin", "reward_accuracy", "epoch")
STEPS = range(10, 121, 10)


@dataclass(frozen=True)
class Generated:
    """A run to write. `result` is None where it is in training; `replaced`: another attempt came after it."""

    config: RunConfig
    result: RunResult | None
    phase: str
    attempt: int = 1
    replaced: bool = False


def study_text(trials: int) -> str:
    """The study's file."""
    variants = ", ".join(f"{name}: {OWN.get(name, '{}')}" for name in LOSSES)
    return STUDY.format(variants=variants, blocks=list(BLOCKS), confirm=list(CONFIRM), trials=trials)


def trials_for(runs: int) -> int:
    """Configs of each stratum, so that there are at least so many runs."""
    strata = len(LOSSES) * len(SCENARIOS)
    return max(1, math.ceil((runs - strata * len(CONFIRM)) / (strata * len(BLOCKS))))


def generated(spec: StudySpec) -> list[Generated]:
    """All runs of the study in the order in which a sweep ends them, those of the confirm arm last."""
    found: list[Generated] = []
    trials = spec.budget.trials
    points = {arm.name: planned_points(spec, arm) for arm in arms(spec).values()}
    for number, scenario in enumerate(SCENARIOS):
        gains = {name: 0.01 * i for i, name in enumerate(LOSSES)}
        records = pool(gains, configs=trials, blocks=BLOCKS, confirm=CONFIRM, scenario=scenario, seed=number)
        best = {(r.variant, r.trial) for r in records if r.phase == "confirm"}
        draw = random.Random(number)
        broken = {(name, t) for name in LOSSES for t in range(trials) if draw.random() < 0.05} - best
        for r in records:
            config = _config(r, points[r.variant][r.trial].params)
            found += _attempts(r, config, (r.variant, r.trial) in broken, draw)
    return sorted(found, key=lambda run: run.phase == "confirm")


def _attempts(record: RunRecord, config: RunConfig, broken: bool, draw: random.Random) -> list[Generated]:
    """The run of a record, seldom with an attempt before it that the machine lost."""
    causes = (Cause.NON_FINITE, Cause.INVERTED, Cause.COLLAPSED)
    cause = causes[record.trial % len(causes)] if broken and draw.random() < 0.7 else Cause.FINISHED
    lost = RunResult(key=config.key, cause=Cause.WORKER_LOST, message="the worker ended without a word")
    before = [Generated(config, lost, record.phase, 1, replaced=True)] if draw.random() < 0.01 else []
    return [*before, Generated(config, _result(record, config, cause, draw), record.phase, 1 + len(before))]


def _config(record: RunRecord, knobs: Mapping[str, Scalar]) -> RunConfig:
    return RunConfig(
        study="ten-thousand",
        variant=record.variant,
        scenario=record.scenario,
        trial=record.trial,
        block=record.block,
        seed=record.seed,
        settings={"loss_type": [record.variant], "max_steps": 120, **knobs},
        knobs=knobs,
        data=DataConfig(rows=2048, label_flip=0.2 if record.scenario == "flips" else 0.0),
        evaluation=EvaluationConfig(prompts=512, max_new_tokens=32),
    )


def _result(record: RunRecord, config: RunConfig, cause: Cause, draw: random.Random) -> RunResult:
    curve = tuple((step, {name: draw.gauss(1.0, 0.1) for name in CURVE}) for step in STEPS)
    facts = {**FACTS, "block": record.block, "digest": f"{record.block:064x}"}
    if cause is not Cause.FINISHED:
        return RunResult(key=config.key, cause=cause, message="generated", curve=curve, facts=facts)
    values = {name: draw.gauss(1.0, 0.1) for name in ALSO} | dict(record.metrics)
    halves = {name: (value - 0.01, value + 0.01) for name, value in values.items()} | dict(record.halves)
    measurements = tuple(
        Measurement(name, value, record.errors.get(name, 0.02), 120, halves[name])
        if name not in UNMEASURED
        else Measurement(name, value, None, 120)
        for name, value in values.items()
    )
    return RunResult(
        key=config.key, cause=cause, measurements=measurements, curve=curve, facts=facts, adapter="adapter"
    )


def send(tracker: Tracker, runs: Sequence[Generated]) -> None:
    """Give runs to a tracker, as a sweep does."""
    for run in runs:
        run_id = tracker.start_run(run.config, run.attempt, run.phase)
        if run.result is not None:
            tracker.finish_run(run_id, run.config, run.result)
        if run.replaced:
            tracker.supersede(run_id, "tried again")


class Store:
    """A store in a folder, with the study open; filled by rows or by the tracker."""

    def __init__(self, folder: Path, text: str) -> None:
        file = folder / "study.yaml"
        file.write_text(text)
        self.spec: StudySpec = load_study(file)
        self.tracker = Tracker("sqlite:///mlflow.db", folder)
        self.tracker.open_study(self.spec, text, questions(Study.of(self.spec)))
        study = self.tracker._opened
        place = (folder / "mlartifacts" / study.name).as_uri()
        self._bulk = Bulk(self.tracker.uri, study.experiment_id, place)

    def fill(self, runs: Sequence[Generated]) -> None:
        """Write runs as rows."""
        outbox = self.tracker._outbox
        entries = collected(self.tracker)
        send(self.tracker, runs)
        self.tracker._outbox = outbox
        self._bulk.write(entries)

    def content(self) -> list[object]:
        """All that reads back of the runs but what is of its time and place: records, histories, inputs."""
        client, found = self.tracker._client, []
        for record in load_records(self.tracker.uri, self.spec.study):
            run, history = client.get_run(record.run_id), client.get_metric_history
            tags = {k: v for k, v in run.data.tags.items() if k not in ("ticket", "mlflow.parentRunId")}
            values = {n: [(m.step, m.value) for m in history(record.run_id, n)] for n in record.metrics}
            inputs = [
                (i.dataset.to_dictionary(), [(t.key, t.value) for t in i.tags]) for i in run.inputs.dataset_inputs
            ]
            place = (record.variant, record.scenario, record.trial, record.block, record.attempt)
            same = record.model_copy(update={"run_id": ""})
            found.append((place, same, tags, run.data.params, run.data.metrics, values, inputs, run.info.status))
        return sorted(found, key=lambda run: run[0])


def check_equal(runs: Sequence[Generated], text: str) -> None:
    """Raise AssertionError unless rows and tracker leave the same."""
    found = []
    for write in (Store.fill, lambda store, runs: send(store.tracker, runs)):
        with tempfile.TemporaryDirectory() as folder:
            store = Store(Path(folder), text)
            write(store, runs)
            found.append(store.content())
    assert found[0] == found[1], "rows that are written at once read back other than what the tracker writes"
    assert found[0], "no run to compare"


@dataclass(frozen=True)
class Cost:
    """What one call took: seconds in all and of a processor, and memory at most."""

    seconds: float
    processor: float
    mebibytes: float
    output: bytes


# A process of its own, since the peak of a new process begins with that of the one that starts it.
MEASURED = """
import json, resource, subprocess, sys, time
started = time.perf_counter()
done = subprocess.run(sys.argv[1:], stdout=sys.stderr)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
seconds = time.perf_counter() - started
print(json.dumps([done.returncode, seconds, used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))
"""


def table(folder: Path, *options: str, store: str | None = None) -> Cost:
    """Call `sweeper table` in a new process."""
    environment = {k: v for k, v in os.environ.items() if k != "MLFLOW_TRACKING_URI"}
    environment |= {"MLFLOW_TRACKING_URI": store} if store else {}
    command = [sys.executable, "-m", "sweeper", "table", "study.yaml", *options]
    done = subprocess.run([sys.executable, "-c", MEASURED, *command], cwd=folder, capture_output=True, env=environment)
    code, seconds, processor, mebibytes = json.loads(done.stdout)
    if code:
        raise SystemExit(f"{' '.join(command)} ended with {code}: {done.stderr.decode()}")
    return Cost(seconds, processor, mebibytes, done.stderr)


def forget(file: Path) -> None:
    """Take a file out of the system's cache, as after a start of the machine."""
    descriptor = os.open(file, os.O_RDONLY)
    os.fsync(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(descriptor)


@contextmanager
def server(folder: Path) -> Iterator[str]:
    """The address of an MLflow server on the store."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    uri, address = f"sqlite:///{folder / 'mlflow.db'}", f"http://127.0.0.1:{port}"
    command = [
        sys.executable,
        "-m",
        "mlflow",
        "server",
        "--backend-store-uri",
        uri,
        "--port",
        str(port),
        "--workers",
        "1",
    ]
    process = subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(120):
            try:
                urllib.request.urlopen(f"{address}/health", timeout=1).close()
                break
            except OSError:
                time.sleep(1)
        yield address
    finally:
        process.terminate()
        process.wait()


def report(name: str, cost: Cost) -> None:
    """One line."""
    used = f"{cost.processor:.2f} s of a processor, peak {cost.mebibytes:.0f} MiB"
    print(f"{name:28} {cost.seconds:6.2f} s, {used}", flush=True)  # noqa: T201


def measure(folder: Path, wanted: int, through_server: bool) -> None:
    """Fill, call, print."""
    text = study_text(trials_for(wanted))
    store = Store(folder, text)
    runs = generated(store.spec)
    rest = [*runs[-MORE:-20], *(Generated(r.config, None, r.phase) for r in runs[-20:])]  # the last ones in training
    unusual = [run for run in runs if run.replaced or (run.result and run.result.message)]
    check_equal([*unusual[: EQUAL // 3], *rest[-EQUAL // 3 :], *runs[: EQUAL - 2 * (EQUAL // 3)]], text)
    started = time.perf_counter()
    store.fill(runs[:-MORE])
    filled, size = time.perf_counter() - started, (folder / "mlflow.db").stat().st_size / 2**20
    print(f"{len(runs) - MORE} attempts, {store.spec.budget.trials} configs a stratum; "  # noqa: T201
          f"{size:.0f} MiB written in {filled:.0f} s", flush=True)  # fmt: skip
    forget(folder / "mlflow.db")
    first = table(folder)
    report("first time, file not cached", first)
    second = table(folder)
    report("second time", second)
    assert first.output == second.output
    store.fill(rest)
    report(f"after {MORE} more runs", table(folder))
    for format in ("json", "html", "markdown", "csv"):
        report(f"--format {format}", table(folder, "--format", format))
    report("--rows beta --columns ...", table(folder, "--rows", "beta", "--columns", "learning_rate"))
    if through_server:
        with server(folder) as address:
            for name in ("through a server", "again"):
                report(name, table(folder, store=address))


def main() -> None:
    """Measure in a folder that is removed afterwards, or in one that is kept."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=10_000)
    parser.add_argument("--server", action="store_true")
    parser.add_argument("--keep", type=Path)
    asked = parser.parse_args()
    folder = (asked.keep or Path(tempfile.mkdtemp())).absolute()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        measure(folder, asked.runs, asked.server)
    finally:
        if asked.keep is None:
            shutil.rmtree(folder)


if __name__ == "__main__":
    main()
