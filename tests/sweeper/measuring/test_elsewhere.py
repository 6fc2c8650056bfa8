"""A model that no run trained, measured beside a study's losses: what the store keeps of it, and what is said."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from dashboards.report.study import comparison_from, recorded_yours, written
from dashboards.store.connection import connect
from dashboards.store.records import load_elsewhere, load_records
from dashboards.store.records_file import Recorded, read_records, records_bytes
from studies.design.elsewhere import Draw, measured_as
from studies.design.identity import questions
from studies.records import (
    ELSEWHERE,
    Cause,
    Measurement,
    Measurer,
    RunConfig,
    RunRecord,
    RunResult,
    Shown,
    State,
)
from studies.records.world_units import writer_of
from studies.spec import Scenario, Study, load_study
from sweeper.folder.paths import places
from sweeper.measuring.elsewhere import look
from sweeper.measuring.rescore import EvaluateError
from sweeper.tracking.experiment.removal import find_entry
from sweeper.tracking.scores import write_elsewhere
from sweeper.tracking.tracker import Tracker
from tests.dashboards.tuned.replicated import replicated
from trainers.world.paths import model_path

Sweeper = Callable[..., Any]
STORIES = Path(__file__).resolve().parents[4] / "shared" / "models" / "stories260k"
STUDY = """
study: pool
base: {model_name_or_path: embedded, use_peft: true, max_steps: 80, lr_scheduler_type: constant}
data: {path: embedded}
variants: {sigmoid: {}, ipo: {}}
space: {beta: {low: 0.1, high: 1.0}}
baseline: sigmoid
replicates: 3
evaluate: {at: [0.125, 0.25, 0.5, 1.0]}
objective: {metric: gold, at_drift: 1.0}
budget: {trials: 2}
"""
MINE = "sha256:mine"


@pytest.fixture
def study(tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch) -> Study:
    """A study with an entry in a store and no runs in it."""
    shutil.copyfile(empty_mlflow, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "study.yaml").write_text(STUDY)
    found = Study.of(load_study(tmp_path / "study.yaml"))
    Tracker(None, tmp_path).open_study(found.spec, STUDY, questions(found))
    return found


RUNS = [run.model_copy(update={"question": "q"}) for run in replicated({"sigmoid": [0.5, 0.6, 0.7], "ipo": [0.4] * 3})]


def keep(study: Study, content: str = MINE, gold: float = 3.0, name: str = "mine") -> list[RunConfig]:
    """Write what was measured of a model on each judging draw; gives the configs."""
    uri = f"sqlite:///{Path.cwd()}/mlflow.db"
    configs = [measured_as(study, Draw(f"clean#{i}", 99 + 2 * i), name, content) for i in (1, 2, 3)]
    for config in configs:
        values = {"gold": gold, "kl": 1.0, "length_ratio": 1.1, "entropy": float("nan")}
        result = RunResult(
            key=config.key,
            cause=Cause.FINISHED,
            measurements=tuple(Measurement(n, v, 0.5, 0, (v, v)) for n, v in values.items()),
            facts={"reference_gold": -1.0},
            samples=(Shown(prompt="a", before="b", after="c"),),
        )
        write_elsewhere(connect(uri), uri, config, result)
    return configs


def found_of(study: Study) -> list[RunRecord]:
    return load_elsewhere(f"sqlite:///{Path.cwd()}/mlflow.db", study.spec.study)


def test_it_is_kept_as_a_kind_of_its_own_that_no_reader_of_runs_sees(study: Study) -> None:
    configs = keep(study)
    assert load_records(f"sqlite:///{Path.cwd()}/mlflow.db", "pool") == []
    records = found_of(study)
    assert [r.key for r in records] == [config.key for config in configs]
    assert {(r.phase, r.variant, r.content[ELSEWHERE], r.attempt) for r in records} == {(ELSEWHERE, "mine", MINE, 1)}
    assert records[0].metrics == {"gold": 3.0, "kl": 1.0, "length_ratio": 1.1}
    assert records[0].facts["reference_gold"] == "-1.0"
    entry = find_entry(f"sqlite:///{Path.cwd()}/mlflow.db", Path.cwd(), "pool")
    assert entry is not None
    assert entry.others == ()


def test_its_gold_is_told_in_the_unit_of_the_model_that_wrote_the_pairs(study: Study) -> None:
    spec, gpt2 = study.spec, "embedded-gpt2"
    data, base = spec.data.model_copy(update={"path": gpt2}), {**spec.base, "model_name_or_path": gpt2}
    keep(Study.of(spec.model_copy(update={"data": data, "base": base})))
    assert {writer_of(run.facts) for run in found_of(study)} == {gpt2}


def test_a_study_whose_scenarios_train_different_models_is_refused(study: Study) -> None:
    scenarios = {
        "llama": Scenario(),
        "gpt2": Scenario(base={"model_name_or_path": "embedded-gpt2"}),
    }
    two = Study.of(study.spec.model_copy(update={"scenarios": scenarios}))
    with pytest.raises(EvaluateError, match="Scenarios of the study train embedded and embedded-gpt2"):
        look(two, RUNS, "mine", places(two.spec, Path.cwd(), None), is_adapter=True, is_as_run=True)


def test_the_table_and_the_answer_show_it_last_and_never_to_be_used(study: Study) -> None:
    keep(study, gold=4.0)
    yours, aside = recorded_yours(study, RUNS)
    table = comparison_from(study, RUNS, aside, [], yours=yours)
    rows = written(table, "markdown", everything=False).splitlines()
    last = [row for row in rows if row.startswith("|")][-1]
    assert last.startswith("| yours: mine | as exported | ")
    (answer,) = table.answers
    assert answer.use == "sigmoid"
    assert answer.sentences[-1].startswith("Yours, mine, as exported, gains ")
    without = comparison_from(study, RUNS, [], [])
    assert [loss.tried for loss in table.tuned[0].losses] == [loss.tried for loss in without.tuned[0].losses]
    assert [row.trials_done for row in table.rows] == [row.trials_done for row in without.rows]
    assert json.loads(written(table, "json"))["tuned"][0]["yours"][0]["judged"] == 3


def test_two_of_one_name_are_told_apart_by_their_contents(study: Study) -> None:
    keep(study, "sha256:aaaaaaaa")
    keep(study, "sha256:bbbbbbbb")
    yours, _ = recorded_yours(study, RUNS)
    shown = written(comparison_from(study, RUNS, [], [], yours=yours), "markdown", everything=False)
    assert "yours: mine (aaaaaa)" in shown
    assert "yours: mine (bbbbbb)" in shown


def test_what_the_study_asks_no_longer_is_in_no_row_and_is_said(study: Study) -> None:
    keep(study)
    spec = study.spec
    fewer = Study.of(spec.model_copy(update={"evaluation": spec.evaluation.model_copy(update={"prompts": 9})}))
    yours, (said,) = recorded_yours(fewer, RUNS)
    assert yours == ()
    assert said.startswith("Of yours: mine some draws were measured for another question or by others")


def test_who_measures_it_is_not_asked_of_a_run_that_broke_before_anybody_judged_it(study: Study) -> None:
    keep(study)
    earlier = {"judged": Measurer(judge="function old:score"), "metrics": {}, "state": State.FAIL}
    yours, aside = recorded_yours(study, [RUNS[0].model_copy(update=earlier), *RUNS])
    assert (len(yours), aside) == (3, [])


def test_a_file_of_records_holds_it_too(study: Study, tmp_path: Path) -> None:
    keep(study)
    yours, _ = recorded_yours(study, RUNS)
    (tmp_path / "records.gz").write_bytes(records_bytes(Recorded("pool", tuple(RUNS), (), (), yours)))
    again = read_records(tmp_path / "records.gz")
    assert [run.key for run in again.yours] == [run.key for run in yours]
    assert len(again.records) == len(RUNS)


# ---- real parts ---------------------------------------------------------------------------------------------------

TINY = """
study: tiny
base: {{model_name_or_path: {model}, use_peft: true, lora_r: 4, lora_target_modules: all-linear, max_steps: 4,
  per_device_train_batch_size: 4, learning_rate: 1.0e-3, lora_dropout: 0.0, dtype: float32}}
data: {{path: {data}, rows: 32, eval_rows: 8, max_length: 128}}
variants: {{sigmoid: {{}}, ipo: {{base: {{beta: 0.5}}}}}}
baseline: sigmoid
runs: {{blocks: [0]}}
confirm: {{top: 1, blocks: [1, 2]}}
evaluate: {{prompts: 4, max_new_tokens: 8}}
objective: {{metric: ranking_gain}}
"""


def trained_by_stock_trl(model: Path, folder: Path) -> None:
    """An adapter as `trl dpo` leaves it, by the same parts."""
    from datasets import Dataset
    from peft import LoraConfig
    from trl import DPOConfig, DPOTrainer

    torch.manual_seed(0)
    rows = [{"prompt": f"Once {i}", "chosen": f" there was {i}", "rejected": f" no {i} was"} for i in range(8)]
    args = DPOConfig(
        output_dir=str(folder), max_steps=2, per_device_train_batch_size=4, bf16=False, use_cpu=True, report_to="none",
        gradient_checkpointing=False, learning_rate=1e-3, disable_tqdm=True,
    )  # fmt: skip
    lora = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM")
    trainer = DPOTrainer(str(model), args=args, train_dataset=Dataset.from_list(rows), peft_config=lora)
    trainer.train()
    trainer.save_model()


@pytest.mark.slow
@pytest.mark.parametrize("base", ["embedded", "stories260k"])
def test_an_adapter_of_stock_trl_becomes_a_row_once(base: str, tmp_path: Path, sweeper: Sweeper) -> None:
    model, data = ("embedded", "embedded") if base == "embedded" else (str(STORIES), "pairs.jsonl")
    if base != "embedded" and not STORIES.is_dir():
        pytest.skip(f"needs {STORIES}")
    pairs = [{"prompt": f"One day {i}", "chosen": f" a dog {i}", "rejected": f" {i} cats ran"} for i in range(64)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    (tmp_path / "tiny.yaml").write_text(TINY.format(model=model, data=data))
    trained_by_stock_trl(model_path() if base == "embedded" else STORIES, tmp_path / "mine")
    command = ("evaluate", "tiny.yaml", "--adapter", "mine", "--executor", "inline")
    early = sweeper(tmp_path, *command)
    assert (early.returncode, (tmp_path / "mlflow.db").exists(), (tmp_path / "runs").exists()) == (2, False, False)
    assert "`sweeper run` makes one" in early.stderr
    assert sweeper(tmp_path, "run", "tiny.yaml", "--executor", "inline").returncode == 0
    once, twice = sweeper(tmp_path, *command), sweeper(tmp_path, *command)
    assert "yours: mine was measured on 2 draws, 0 had been." in once.stdout, once.stdout + once.stderr
    assert "yours: mine was measured on 0 draws, 2 had been." in twice.stdout
    assert "yours: mine  as exported" in sweeper(tmp_path, "table", "tiny.yaml").stdout
    whole = tmp_path / "whole"
    shutil.copytree(model_path() if base == "embedded" else STORIES, whole)
    of_base = sweeper(tmp_path, "evaluate", "tiny.yaml", "--model", "whole", "--executor", "inline")
    assert "yours: whole was measured on 2 draws" in of_base.stdout, of_base.stdout + of_base.stderr
    (one,) = [r for r in load_elsewhere(f"sqlite:///{tmp_path}/mlflow.db", "tiny") if r.variant == "whole"][:1]
    assert one.metrics["kl"] == pytest.approx(0.0, abs=1e-4)
    assert one.metrics["ranking_gain"] == 0.0
    assert "train_accuracy" not in one.metrics
