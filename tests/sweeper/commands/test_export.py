"""The exported config: TRL's own parser reads it, and stock `trl dpo` gives the run's adapter again."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import load_dataset
from safetensors.torch import load_file
from transformers import AutoTokenizer
from trl.scripts.dpo import main, make_parser

from studies.records import PRECOMPUTE, WEIGHT_FACT, DataConfig, EvaluationConfig, RunConfig, RunRecord
from studies.spec import load_study
from sweeper.commands import export
from sweeper.commands.export import placed, trl_settings
from tests.dashboards.generated import a_record
from tests.sweeper.conftest import SweptOnce
from tests.trainers.models.test_odd_models import SPECIAL, a_model, a_tokenizer
from tests.trainers.pack_runs import assert_rounding, float64
from trainers.data.pairs import load_pairs
from trainers.run_folder.results import read_result
from trainers.world.paths import model_path

Sweeper = Callable[..., Any]
READ_AS: dict[str, tuple[Any, ...]] = {"report_to": ([],)}  # how TRL's types hold `none`
STUDY = """
study: small
trainer: {trainer}
base:
  model_name_or_path: {model}
  use_peft: true
  lora_r: 4
  lora_target_modules: all-linear
  max_steps: 6
  per_device_train_batch_size: 8
  learning_rate: {rate}
  warmup_steps: 2
data: {{path: embedded, rows: 64, eval_rows: 32}}
variants:
  ipo: {{}}
  mix: {{loss_type: [sigmoid, ipo], {balance}space: {{loss_weights: {{type: simplex}}}}}}
space: {{beta: {{low: 0.1, high: 1.0, log: true}}}}
scenarios: {{noisy: {{label_flip: 0.25, flip_by: length, rejected_from: another}}}}
evaluate: {{prompts: 16, max_new_tokens: 32}}
budget: {{trials: 1}}
objective: {{metric: ranking_gain}}
"""
FORMULA = {"trainer": "formula", "model": "embedded", "balance": "", "rate": "1.0e-5"}
DPO = {**FORMULA, "trainer": "dpo", "rate": "1.0e-3"}
BALANCED = {**DPO, "balance": "balance: gradient, "}
GPT2 = {**DPO, "model": "embedded-gpt2"}


@pytest.fixture(scope="module")
def by_the_formula(tmp_path_factory: pytest.TempPathFactory, swept_once: SweptOnce) -> Path:
    """A folder in which the study has been run by the formula."""
    return swept_once(tmp_path_factory.mktemp("formula"), STUDY.format(**FORMULA))


@pytest.fixture
def trained(sweeper: Sweeper, tmp_path: Path, request: pytest.FixtureRequest, empty_mlflow: Path) -> Iterator[Path]:
    """A folder in which the study has been run by the trainer that the test asks for; the formula's is shared, and what
    a test leaves there is taken away.
    """
    if hasattr(request, "param"):
        (tmp_path / "study.yaml").write_text(STUDY.format(**request.param))
        (tmp_path / "mlflow.db").write_bytes(empty_mlflow.read_bytes())
        done = sweeper(tmp_path, "run", "study.yaml", "--executor", "inline")
        assert done.returncode == 0, done.stderr
        yield tmp_path
        return
    folder: Path = request.getfixturevalue("by_the_formula")
    before = set(folder.iterdir())
    yield folder
    (folder / "study.yaml").write_text(STUDY.format(**FORMULA))
    for left in {*folder.iterdir()} - before:
        shutil.rmtree(left) if left.is_dir() else left.unlink()


def test_the_head_says_where_it_comes_from_and_how_far_to_believe_it(sweeper: Sweeper, trained: Path) -> None:
    sweeper(trained, "export", "study.yaml", "--variant", "ipo", "--output", "mine.yaml")
    head = [line for line in (trained / "mine.yaml").read_text().splitlines() if line.startswith("#")]
    text = "\n".join(head)
    for said in ("study small", "variant ipo", "scenario noisy", "ranking_gain", "no interval", "data digest", "trl "):
        assert said in text
    assert (trained / "mine-data" / "train.jsonl").exists()


def test_the_rows_beside_it_are_dealt_and_flipped_as_the_scenario_says(sweeper: Sweeper, trained: Path) -> None:
    sweeper(trained, "export", "study.yaml")
    rows = [yaml.safe_load(line) for line in (trained / "best-data" / "train.jsonl").read_text().splitlines()]
    data = DataConfig(path="embedded", rows=64, eval_rows=32, rejected_from="another")
    dealt = load_pairs(data, 0, AutoTokenizer.from_pretrained(model_path())).train
    flipped = [was for row, was in zip(rows, dealt, strict=True) if row["chosen"] == was["rejected"]]
    assert len(flipped) == 16
    assert all(len(str(was["rejected"]).split()) > len(str(was["chosen"]).split()) for was in flipped)


def test_from_whatever_folder_it_is_used_it_names_its_own_pairs_model_and_adapter(
    sweeper: Sweeper, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`datasets` and transformers take a name that is not here for one of the Hub, or of their caches."""
    (trained / "deep").mkdir()
    exported = sweeper(trained, "export", "study.yaml", "--output", "deep/mine.yaml")
    assert exported.returncode == 0, exported.stderr
    (elsewhere := trained / "elsewhere" / "deep").mkdir(parents=True)
    for name in ("mine-data", "mine-model"):
        (elsewhere / name).mkdir()
    (elsewhere / "mine-data" / "train.jsonl").write_text('{"prompt": "a", "chosen": "b", "rejected": "c"}\n')
    monkeypatch.chdir(elsewhere.parent)
    written = yaml.safe_load(Path("../deep/mine.yaml").read_text())
    mine = [json.loads(line) for line in (trained / "deep" / "mine-data" / "train.jsonl").read_text().splitlines()]
    assert load_dataset(written["dataset_name"], cache_dir=str(trained / "cache"))["train"].to_list() == mine
    assert Path(written["model_name_or_path"]) == trained / "deep" / "mine-model"
    assert Path(written["output_dir"]) == trained / "deep" / "mine-adapter"
    head = (trained / "deep" / "mine.yaml").read_text().partition("model_name_or_path")[0]
    assert "from any folder: trl dpo --config" in head
    shutil.move(trained / "deep", trained / "moved")
    with pytest.raises(FileNotFoundError):  # and no other data of that name
        load_dataset(written["dataset_name"], cache_dir=str(trained / "cache"))


@pytest.mark.parametrize("named", ["model", "./model", "../here/model"])
def test_a_model_that_lies_here_is_named_by_its_place_and_one_of_the_hub_by_its_id(tmp_path: Path, named: str) -> None:
    (here := tmp_path / "here").mkdir()
    with contextlib.chdir(here):
        (here / "model").mkdir()
        assert Path(placed(named)).is_absolute()
        assert Path(placed(named)).samefile(here / "model")
        assert placed("ORG/model") == "ORG/model"


def test_a_place_with_a_secret_in_its_name_is_refused_since_it_could_not_be_written(
    sweeper: Sweeper, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "s3cr3t-enough")
    (trained / "s3cr3t-enough").mkdir()
    refused = sweeper(trained, "export", "study.yaml", "--output", "s3cr3t-enough/best.yaml")
    assert refused.returncode == 2
    assert "holds a secret" in refused.stderr
    assert "s3cr3t-enough" not in refused.stderr
    assert list((trained / "s3cr3t-enough").iterdir()) == []


INJECTED = "x\nenv: {LD_PRELOAD: ./evil.so}\ntrust_remote_code: true #\u2028\u202e"


def test_no_knob_of_an_older_store_becomes_a_key_of_its_own(
    sweeper: Sweeper, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("studies.loading.load.text_problems", lambda _spec: [])  # as in older versions
    points = {"ipo": {"points": [{"beta": 0.1, "length_column_name": INJECTED}]}}
    study = yaml.safe_load(STUDY.format(**FORMULA)) | {"variants": points, "space": {}}
    del study["space"]
    (tmp_path / "study.yaml").write_text(yaml.safe_dump(study))
    assert sweeper(tmp_path, "run", "study.yaml", "--executor", "inline").returncode == 0
    exported = sweeper(tmp_path, "export", "study.yaml")
    assert exported.returncode == 0, exported.stderr
    text = (tmp_path / "best.yaml").read_text()
    written = yaml.safe_load(text)
    assert written["length_column_name"] == INJECTED
    assert not written.keys() & {"env", "trust_remote_code"}
    head = text.partition("model_name_or_path")[0].splitlines()
    assert all(line.startswith("# ") for line in head if "x\\nenv" in line)
    assert [line for line in head if not line.startswith("#") and "env" in line] == []


@pytest.mark.parametrize(
    ("knob", "value", "told"),
    [
        ("trust_remote_code", True, "say it once, in base"),
        ("env", "A", "does nothing here"),
        ("model_init_kwargs", '{"trust_remote_code": true}', "runs Python code"),
        ("a\nb", 1, r"its setting a\nb"),
    ],
)
def test_a_knob_of_the_store_that_no_study_may_have_is_not_exported(
    sweeper: Sweeper, trained: Path, monkeypatch: pytest.MonkeyPatch, knob: str, value: Any, told: str
) -> None:
    of_the_store = export._run_of

    def planted(*given: Any) -> RunRecord:
        record = of_the_store(*given)
        return record.model_copy(update={"knobs": {**record.knobs, knob: value}})

    monkeypatch.setattr(export, "_run_of", planted)
    refused = sweeper(trained, "export", "study.yaml")
    assert refused.returncode == 2
    assert told in refused.stderr
    assert not (trained / "best.yaml").exists()
    assert not (trained / "best-data").exists()


def test_what_would_be_read_otherwise_is_not_written(
    sweeper: Sweeper, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "escaped", lambda text: f"{text}\nenv: {{A: b}}")
    refused = sweeper(trained, "export", "study.yaml")
    assert refused.returncode == 2
    assert "would not be read as it is meant" in refused.stderr
    assert not (trained / "best.yaml").exists()
    assert not (trained / "best-data").exists()


@pytest.mark.parametrize(
    "trained",
    [
        pytest.param(DPO, id="weights"),
        pytest.param(BALANCED, id="balanced", marks=pytest.mark.slow),
        pytest.param(GPT2, id="another model", marks=pytest.mark.slow),
    ],
    indirect=True,
)
def test_trls_own_parser_reads_it_and_stock_trl_gives_the_runs_adapter_again(
    sweeper: Sweeper, trained: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    exported = sweeper(trained, "export", "study.yaml", "--variant", "mix")
    assert exported.returncode == 0, exported.stderr
    training = parsed_as_written(trained / "best.yaml")
    key = (trained / "best.yaml").read_text().partition(", key ")[2].split()[0]
    result = read_result(trained / "runs" / "small" / key)
    assert result is not None
    measured = [result.facts.get(f"{WEIGHT_FACT}{loss}") for loss in training.loss_type]
    if measured == [None, None]:
        assert sum(training.loss_weights) == pytest.approx(1.0)
    else:
        assert training.loss_weights == measured
        assert "# loss_weights: shares of the gradient over its norm before" in (trained / "best.yaml").read_text()
    adapter = trained / "runs" / "small" / key / "adapter"
    assert_stock_trl_gives_the_adapter_again(trained, adapter, monkeypatch, trl_dpo_here)


def trl_dpo(folder: Path) -> None:
    """TRL's own command, which loads TRL once to launch and once to train."""
    subprocess.run(
        [Path(sys.executable).with_name("trl"), "dpo", "--config", "best.yaml"],
        cwd=folder,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": str(torch.get_num_threads())},
        capture_output=True,
        check=True,
    )


def trl_dpo_here(folder: Path) -> None:
    """What TRL's command does in the process that it launches."""
    with contextlib.chdir(folder):
        main(*make_parser().parse_args_and_config(["--config", "best.yaml"]))


def assert_stock_trl_gives_the_adapter_again(
    folder: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch, stock: Callable[[Path], None] = trl_dpo
) -> None:
    stock(folder)
    first = load_file(adapter / "adapter_model.safetensors")
    again = load_file(folder / "best-adapter" / "adapter_model.safetensors")
    assert_rounding(first, again, exact_adapter(folder / "best.yaml", monkeypatch))


def exact_adapter(config: Path, patch: pytest.MonkeyPatch) -> dict[str, torch.Tensor]:
    """The adapter that `trl dpo` gives for the file in float64."""
    output = config.with_name("exact-adapter")
    patch.chdir(config.parent)
    script, training, *others = make_parser().parse_args_and_config(["--config", config.name, f"--output_dir={output}"])
    training.model_init_kwargs = {"dtype": torch.float64}
    with float64(patch):
        main(script, training, *others)
    return dict(load_file(output / "adapter_model.safetensors"))


def parsed_as_written(config: Path) -> Any:
    """TRL's training arguments: every line of the file reaches TRL's types with its value, and none is left over."""
    script, training, model, _, rest = make_parser().parse_args_and_config(
        ["--config", str(config)], return_remaining_strings=True
    )
    assert rest == []
    for name, value in yaml.safe_load(config.read_text()).items():
        holder = next(part for part in (training, model, script) if hasattr(part, name))
        parsed = getattr(holder, name)
        assert parsed in (value, *READ_AS.get(name, ())) or [parsed] == value, name
    assert training.loss_type == ["sigmoid", "ipo"]
    assert (training.bf16, training.gradient_checkpointing, training.use_cpu) == (False, False, True)
    return training


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--variant", "hinge"), "ipo, mix"),
        (("--trial", "0"), "--variant"),
        (("--variant", "ipo", "--trial", "7"), "no finished run"),
    ],
)
def test_asking_for_what_is_not_there_exits_2_and_writes_nothing(
    sweeper: Sweeper, trained: Path, arguments: tuple[str, ...], said: str
) -> None:
    refused = sweeper(trained, "export", "study.yaml", *arguments)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert not (trained / "best.yaml").exists()


def test_what_no_export_has_written_stays(sweeper: Sweeper, trained: Path) -> None:
    (trained / "best.yaml").write_text("beta: 0.1\n")
    refused = sweeper(trained, "export", "study.yaml")
    assert refused.returncode == 2
    assert "best.yaml is there already, and no export has written it" in refused.stderr
    assert (trained / "best.yaml").read_text() == "beta: 0.1\n"
    assert not (trained / "best-data").exists()


def test_nothing_is_written_where_lies_what_the_study_reads(tmp_path: Path) -> None:
    """As where the pairs are those of an earlier export."""
    data = tmp_path / "best-data" / "train.jsonl"
    data.parent.mkdir()
    data.touch()
    text = f"study: s\nbase: {{model_name_or_path: m}}\ndata: {{path: {data}}}\nvariants: {{sigmoid: {{}}}}"
    spec = load_study("s.yaml", text=text)
    with pytest.raises(export.ExportError, match=r"which data\.path reads: name another place"):
        export._check_outputs(spec, tmp_path / "best.yaml", data.parent, tmp_path / "best-model")
    export._check_outputs(spec, tmp_path / "best.yaml", tmp_path / "other-data", tmp_path / "best-model")


def test_no_limit_stays_no_limit(sweeper: Sweeper, tmp_path: Path, empty_mlflow: Path) -> None:
    """TRL's own default is a limit of 1024 tokens, so a null that was left out would truncate."""
    text = STUDY.format(**FORMULA).replace("eval_rows: 32", "eval_rows: 32, max_length: null")
    (tmp_path / "study.yaml").write_text(text)
    (tmp_path / "mlflow.db").write_bytes(empty_mlflow.read_bytes())
    assert sweeper(tmp_path, "run", "study.yaml", "--executor", "inline").returncode == 0
    assert sweeper(tmp_path, "export", "study.yaml").returncode == 0
    written = yaml.safe_load((tmp_path / "best.yaml").read_text())
    assert "max_length" in written
    assert written["max_length"] is None


def test_a_study_file_that_has_changed_since_is_noticed(sweeper: Sweeper, trained: Path) -> None:
    text = (trained / "study.yaml").read_text()
    (trained / "study.yaml").write_text(text.replace("max_steps: 6", "max_steps: 7"))
    refused = sweeper(trained, "export", "study.yaml")
    assert refused.returncode == 2
    assert "finished runs left aside: settings, space, sampler or evaluation of the study file" in refused.stderr


def test_a_folder_that_stock_trl_could_not_read_is_refused_and_nothing_is_left(sweeper: Sweeper, trained: Path) -> None:
    """`datasets` takes brackets in the path of a folder for a pattern."""
    before = {path.name for path in trained.iterdir()}
    refused = sweeper(trained, "export", "study.yaml", "--output", "a[1].yaml")
    assert refused.returncode == 2
    assert "--output" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert {path.name for path in trained.iterdir()} == before


DATES = """
study: dates
base: {model_name_or_path: model, use_peft: true, lora_r: 4, max_steps: 2, per_device_train_batch_size: 4,
  learning_rate: 1.0e-3}
data: {path: pairs.jsonl, eval_rows: 4}
variants: {sigmoid: {}}
evaluate: {prompts: 4, max_new_tokens: 4}
resources: {together: 0}
"""


@pytest.mark.slow
def test_stock_trl_trains_on_answers_that_are_dates_as_the_run_did(
    sweeper: Sweeper, tmp_path: Path, empty_mlflow: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    day = "{}-{:02d}-01"
    rows = [
        {"prompt": f"good {i} ?", "chosen": day.format(2021, i), "rejected": day.format(2019, i)} for i in range(1, 13)
    ]
    tokenizer = a_tokenizer(SPECIAL)
    a_model(tmp_path / "model", tokenizer, len(tokenizer))
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "study.yaml").write_text(DATES)
    (tmp_path / "mlflow.db").write_bytes(empty_mlflow.read_bytes())
    for command in (("run", "study.yaml", "--executor", "inline"), ("export", "study.yaml")):
        done = sweeper(tmp_path, *command)
        assert done.returncode == 0, done.stderr
    key = (tmp_path / "best.yaml").read_text().partition(", key ")[2].split()[0]
    assert_stock_trl_gives_the_adapter_again(tmp_path, tmp_path / "runs" / "dates" / key / "adapter", monkeypatch)


def test_what_was_turned_off_for_a_run_is_off_in_its_export(tmp_path: Path) -> None:
    settings = {"use_peft": False, PRECOMPUTE: True}
    config = RunConfig(
        **{"study": "s", "variant": "v", "scenario": "clean", "trial": 0, "block": 0, "seed": 0},
        settings=settings,
        knobs={},
        data=DataConfig(),
        evaluation=EvaluationConfig(),
    )
    for facts, asked in (({}, True), ({PRECOMPUTE: "false"}, False)):
        assert trl_settings(config, a_record(facts=facts), "m", tmp_path, tmp_path / "best.yaml")[PRECOMPUTE] is asked
