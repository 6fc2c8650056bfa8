"""What stores hold, read with nothing of this project: the words in MLflow, in Optuna and in run folders of small
sweeps that are recorded here, and the tables and the export of two studies that were recorded long ago.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import sqlite3
import tarfile
from collections.abc import Mapping, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import patch

import yaml
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import TEMPORARILY_UNAVAILABLE
from typer.testing import CliRunner

from sweeper.cli.app import app
from tests.pins.command_line import accepted_words, inside
from trainers.world.paths import model_path

RECORDED = Path(__file__).parents[1] / "stores" / "format-1.tar.xz"
TABLES = ("formula", "judged")  # scenarios, a mixture and a confirm phase; real runs with a judge

# Every kind of run that a store has words of its own for: diverged ones, mixtures, evaluations half way, a confirm
# phase; rungs; real ones with an adapter.
STUDIES: Mapping[str, str] = {
    "phases": """
study: phases
question: Which?
trainer: formula
base: {model_name_or_path: embedded, use_peft: true, lora_r: 8, max_steps: 4}
baseline: sigmoid
variants:
  sigmoid: {}
  ipo: {points: [{learning_rate: 3.0e-3}]}
  mix: {loss_type: [sigmoid, ipo], space: {loss_weights: {type: simplex}}}
space: {learning_rate: {low: 1.0e-6, high: 1.0e-5, log: true}}
scenarios: {clean: {}, noisy: {label_flip: 0.2, variants: [sigmoid, ipo]}}
evaluate: {at: [0.5, 1.0]}
objective: {metric: ranking_gain, constraints: {kl: {max: 100}}}
confirm: {top: 1, blocks: [1], seeds: [0]}
budget: {trials: 2}
""",
    "rungs": """
study: rungs
mode: search
trainer: formula
base: {model_name_or_path: embedded, max_steps: 4}
variants: {sigmoid: {}, ipo: {}}
space: {beta: {low: 0.05, high: 1.0, log: true}}
rungs: {at: [0.5], eta: 2, bracket: 4}
objective: {metric: ranking_gain}
budget: {trials: 4}
""",
    "trained": """
study: trained
base: {model_name_or_path: embedded, use_peft: true, lora_r: 4, lora_alpha: 8, learning_rate: 1.0e-3, max_steps: 2,
  per_device_train_batch_size: 4}
data: {path: embedded, rows: 16, eval_rows: 8}
variants: {sigmoid: {}, mix: {loss_type: [sigmoid, ipo], balance: gradient}}
space: {beta: {values: [0.1]}}
sampler: grid
evaluate: {prompts: 4, pairs: 8, max_new_tokens: 4}
output: {keep: all}
budget: {trials: 1}
""",
}


# Tags whose values are words of a fixed list.
CHOSEN = ("kind", "state", "cause", "failure", "arm")


def stored_words(folder: Path) -> dict[str, Any]:
    """What three sweeps leave in `folder`, which is empty."""
    for study, text in STUDIES.items():
        (folder / f"{study}.yaml").write_text(text)
        run(folder, "run", f"{study}.yaml", "--executor", "inline")
    run(folder, "pause", "phases.yaml", "ipo")
    found = {study: _of_study(folder, study) for study in STUDIES}
    away = folder / "away"
    away.mkdir()
    shutil.copyfile(folder / "mlflow.db", away / "mlflow.db")
    return found | {"journal": _journal(away)}


def recorded_studies(folder: Path) -> dict[str, Any]:
    """What is read of studies that were recorded once: tables without their sentences, an exported config, and the
    exit codes of all that can be asked of them. `folder` is empty.
    """
    with tarfile.open(RECORDED) as archive:
        archive.extractall(folder, filter="data")
    shutil.copytree(model_path(), folder / "model")  # which was left out
    tables = {study: _plain(json.loads(run(folder, "table", f"{study}.yaml", "--format", "json"))) for study in TABLES}
    run(folder, "export", "embedded.yaml", "--output", "exported.yaml")
    text = (folder / "exported.yaml").read_text(encoding="utf-8").replace(str(folder), "FOLDER")
    exported = yaml.safe_load(text)
    return {"tables": tables, "exported": exported, "accepted": accepted_words(folder)}


def run(folder: Path, *arguments: str) -> str:
    """What a command of sweeper prints that is called in `folder` and must end well."""
    with inside(folder):
        result = CliRunner().invoke(app, list(arguments))
    assert result.exit_code == 0, f"{arguments} in {folder} ended with {result.exit_code}: {result.output}"
    return result.stdout


def _plain(value: Any) -> Any:
    """The same with nine digits of each number, and sentences, which may be worded better, left out."""
    match value:
        case dict():
            return {name: _plain(inner) for name, inner in value.items()}
        case list():
            return [_plain(inner) for inner in value]
        case float() if math.isfinite(value):
            return float(f"{value:.9g}")
        case str() if value.count(" ") > 3:
            return "(a sentence)"
        case _:
            return value


def _of_study(folder: Path, study: str) -> dict[str, Any]:
    return {
        "mlflow": _in_mlflow(folder / "mlflow.db", study),
        "optuna": _in_optuna(folder / "optuna.db", study),
        "folder": _in_folder(folder / "runs" / study),
    }


def _in_mlflow(database: Path, study: str) -> dict[str, Any]:
    def read(sql: str) -> list[tuple[Any, ...]]:
        return _rows(database, sql, study)

    runs = "runs join experiments using (experiment_id) where experiments.name = ?"
    of_runs = "join runs using (run_uuid) join experiments using (experiment_id) where experiments.name = ?"
    ids = {name for (name,) in read(f"select run_uuid from {runs}")}
    artifacts = sorted(
        f"{'RUN' if path.parts[0] in ids else path.parts[0]}/{'/'.join(path.parts[2:])}"
        for file in (database.parent / "mlartifacts" / study).rglob("*")
        if file.is_file()
        for path in [file.relative_to(database.parent / "mlartifacts" / study)]
    )
    return {
        "runs": sorted(f"{name} {status}" for name, status in read(f"select runs.name, status from {runs}")),
        "experiment tags": _shapes(
            read("select key, value from experiment_tags join experiments using (experiment_id) where name = ?")
        ),
        "tags": _shapes(read(f"select tags.key, tags.value from tags {of_runs}")),
        "words": _words(read(f"select tags.key, tags.value from tags {of_runs}")),
        "params": sorted({key for (key,) in read(f"select params.key from params {of_runs}")}),
        "metrics": sorted({key for (key,) in read(f"select latest_metrics.key from latest_metrics {of_runs}")}),
        "artifacts": {name: artifacts.count(name) for name in artifacts},
    }


def _in_optuna(database: Path, study: str) -> dict[str, Any]:
    def read(sql: str) -> list[tuple[Any, ...]]:
        return _rows(database, sql, f"{study}/%")

    of = "join studies using (study_id) where study_name like ?"
    of_trials = f"join trials using (trial_id) {of}"
    return {
        "studies": sorted(name for (name,) in read("select study_name from studies where study_name like ?")),
        "study attributes": _shapes_of_json(read(f"select key, value_json from study_user_attributes {of}")),
        "trial attributes": _shapes_of_json(read(f"select key, value_json from trial_user_attributes {of_trials}")),
        "system attributes": _shapes_of_json(read(f"select key, value_json from trial_system_attributes {of_trials}")),
        "params": sorted({name for (name,) in read(f"select param_name from trial_params {of_trials}")}),
        "states": sorted(
            f"{name} {number} {state}"
            for name, number, state in read(f"select study_name, number, state from trials {of}")
        ),
    }


def _in_folder(runs: Path) -> dict[str, Any]:
    """Names of files below the folder of a study, and what the JSON in them holds."""
    names: dict[str, list[Any]] = {}
    for file in sorted(file for file in runs.rglob("*") if file.is_file()):
        name = re.sub(r"\b[0-9a-f]{32,}\b", "DIGEST", re.sub(r"\b[0-9a-f]{12}\b", "KEY", str(file.relative_to(runs))))
        text = file.read_text(encoding="utf-8") if file.suffix == ".json" and "adapter" not in name else "null"
        names.setdefault(name, []).append(_shape(json.loads(text)))
    return {name: _merged(shapes) for name, shapes in names.items()}


def _journal(folder: Path) -> dict[str, Any]:
    """The lines that a sweep keeps which MLflow leaves with its first run."""
    started = False

    def fails(name: str) -> Any:
        real = getattr(MlflowClient, name)

        def call(client: MlflowClient, *arguments: Any, **options: Any) -> Any:
            nonlocal started
            started = started or (name == "create_run" and "key" in (options.get("tags") or {}))
            if started:
                raise MlflowException("database is locked", TEMPORARILY_UNAVAILABLE)
            return real(client, *arguments, **options)

        return call

    writes = ("create_run", "log_batch", "log_text", "log_inputs", "set_tag", "set_terminated", "log_artifact")
    (folder / "unheard.yaml").write_text(STUDIES["trained"].replace("trained", "unheard"))
    with inside(folder), patch.multiple(MlflowClient, **{name: fails(name) for name in writes}):
        result = CliRunner().invoke(app, ["run", "unheard.yaml", "--executor", "inline"])
    file = next((folder / "runs").rglob("*.jsonl"))
    lines = [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
    kinds = dict.fromkeys(line["do"] for line in lines if line["do"] != "curve")  # of runs of five seconds and more
    return {
        "exit code": result.exit_code,
        "file": str(file.relative_to(folder)),
        **{kind: _merged([_shape(line) for line in lines if line["do"] == kind]) for kind in kinds},
    }


def _rows(database: Path, sql: str, *values: str) -> list[tuple[Any, ...]]:
    with closing(sqlite3.connect(database)) as connection:
        return connection.execute(sql, values).fetchall()


def _words(rows: Sequence[tuple[str, str]]) -> dict[str, list[str]]:
    return {key: words for key in CHOSEN if (words := sorted({value for name, value in rows if name == key}))}


def _shapes_of_json(rows: Sequence[tuple[str, str]]) -> dict[str, Any]:
    return _shapes([(key, json.loads(text)) for key, text in rows])


def _shapes(rows: Sequence[tuple[str, Any]]) -> dict[str, Any]:
    """Each key with what its values hold."""
    kept: dict[str, list[Any]] = {}
    for key, value in rows:
        kept.setdefault(key, []).append(_shape(value))
    return {key: _merged(shapes) for key, shapes in kept.items()}


def _shape(value: Any) -> Any:
    """The fields of what JSON holds, and what kinds of values they have."""
    match value:
        case dict():
            return {name: _shape(inner) for name, inner in value.items()}
        case list():
            return [_merged([_shape(inner) for inner in value])] if value else []
        case None:
            return "null"
        case bool():
            return "bool"
        case int() | float():
            return "number"
        case str() if value[:1] in ("{", "["):
            return _shape(json.loads(value))
        case _:
            return "text"


def _merged(shapes: Sequence[Any]) -> Any:
    """One shape that holds for all of these; a field that some lack is marked."""
    if all(isinstance(shape, dict) and "either" not in shape for shape in shapes):
        names = sorted({name for shape in shapes for name in shape})
        return {
            name if all(name in shape for shape in shapes) else f"{name}?": _merged(
                [shape[name] for shape in shapes if name in shape]
            )
            for name in names
        }
    if all(isinstance(shape, list) for shape in shapes):
        inner = [one for shape in shapes for one in shape]
        return [_merged(inner)] if inner else []
    every = [
        one
        for shape in shapes
        for one in (shape["either"] if isinstance(shape, dict) and "either" in shape else [shape])
    ]
    different = list({json.dumps(shape, sort_keys=True): shape for shape in every}.values())
    return different[0] if len(different) == 1 else {"either": sorted(different, key=str)}
