"""What an export hands on: a folder for the Hub without secrets and places, a plain model, a version in MLflow."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig
from typer.testing import CliRunner

from dashboards.store.connection import connect
from studies.records import DataConfig, EvaluationConfig, RunConfig
from studies.text.places import PLACE, without_places
from sweeper.cli.app import app
from sweeper.cli.verbs.sharing import _without_place
from sweeper.commands.export import Chosen, ExportError
from sweeper.commands.sharing.card import public_settings
from sweeper.commands.sharing.weights import Retraining, find_weights
from tests.dashboards.generated import a_record
from tests.sweeper.hub import Hub
from tests.trainers.tiny_models import PAIRS, SIZES, a_model
from trainers.export_files import write_plain_model
from trainers.models.bases import UnusableModel

Sweeper = Callable[..., Any]
SECRET = "hf_abcdefghijklmnopqrstuvwxyz"
STUDY = """
study: shared
question: Is {place} of use?
base: {{model_name_or_path: {place}/model, use_peft: true, lora_r: 4, max_steps: 2, per_device_train_batch_size: 4,
  learning_rate: 1.0e-2}}
data: {{path: {place}/pairs.jsonl, eval_rows: 4}}
variants: {{sigmoid: {{}}, ipo: {{}}}}
space: {{beta: {{low: 0.1, high: 1.0}}}}
evaluate: {{prompts: 4, max_new_tokens: 4}}
budget: {{trials: 1}}
resources: {{together: 0}}
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory, empty_mlflow: Path) -> Path:
    """A folder in which a study of a local model and local pairs has been run."""
    folder = tmp_path_factory.mktemp("made")
    a_model(folder / "model", LlamaConfig(**SIZES))
    (folder / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PAIRS))
    (folder / "mine.yaml").write_text(STUDY.format(place=folder))
    shutil.copyfile(empty_mlflow, folder / "mlflow.db")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr("sweeper.measuring.speed.SpeedMeter.run", lambda *_, **__: None)
        done = CliRunner().invoke(app, ["run", "mine.yaml", "--executor", "inline"])
    assert done.exit_code == 0, done.output
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, whose store and runs a test may change."""
    copy = tmp_path / "copy"
    shutil.copytree(made, copy)
    return copy


def key_of(folder: Path) -> str:
    return (folder / "best.yaml").read_text().partition(", key ")[2].split()[0]


def logits(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(input_ids=torch.arange(20).unsqueeze(0)).logits
    return found


def test_the_folder_for_the_hub_holds_all_that_others_need_and_nothing_that_is_not_theirs(
    sweeper: Sweeper, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", SECRET)
    sets = ["--set", f"question={folder} {SECRET}"]
    wanted = ["--push-to-hub", "ORG/NAME", "--dry-run", "out"]
    done = sweeper(folder, "export", str(folder / "mine.yaml"), *wanted, *sets)
    assert done.returncode == 0, done.stderr
    out = folder / "out"
    names = {"README.md", "trl.yaml", "adapter_config.json", "adapter_model.safetensors"}
    assert {path.name for path in out.iterdir()} == names
    told = "".join((out / name).read_text() for name in names - {"adapter_model.safetensors"})
    for private in (str(folder), str(folder.parent), str(Path.home()), SECRET, *(row["chosen"] for row in PAIRS[3:])):
        assert private not in told
    card = (out / "README.md").read_text()
    head = yaml.safe_load(card.split("---")[1])
    assert head["library_name"] == "peft"
    assert "base_model" not in head
    digest = (folder / "best.yaml").read_text().partition("data digest ")[2].split()[0]
    said = (
        *("base: unknown: fill in", "data: unknown: fill in", digest, "| Loss |", "peft ", "sweeper run mine.yaml"),
        *("sweeper export mine.yaml", "PeftModel.from_pretrained(base, 'ORG/NAME')", "at its end", "beta "),
    )
    assert [text for text in said if text not in card] == []
    settings = yaml.safe_load((out / "trl.yaml").read_text())
    assert not settings.keys() & {"dataset_name", "output_dir", "model_name_or_path"}
    assert settings.items() <= yaml.safe_load((folder / "best.yaml").read_text()).items()
    base = AutoModelForCausalLM.from_pretrained(folder / "model")
    ours = logits(PeftModel.from_pretrained(base, str(folder / "runs" / "shared" / key_of(folder) / "adapter")))
    again = logits(PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(folder / "model"), str(out)))
    assert torch.equal(ours, again)


def test_the_plain_model_computes_as_the_adapter_does(sweeper: Sweeper, folder: Path) -> None:
    done = sweeper(folder, "export", "mine.yaml", "--merge", "--output", "mine-best.yaml")
    assert done.returncode == 0, done.stderr
    plain = folder / "mine-best-merged"
    assert not (plain / "adapter_config.json").exists()
    assert (
        AutoTokenizer.from_pretrained(plain).get_vocab() == AutoTokenizer.from_pretrained(folder / "model").get_vocab()
    )
    base = AutoModelForCausalLM.from_pretrained(folder / "model")
    start = logits(base)
    key = (folder / "mine-best.yaml").read_text().partition(", key ")[2].split()[0]
    beside = logits(PeftModel.from_pretrained(base, str(folder / "runs" / "shared" / key / "adapter")))
    inside = logits(AutoModelForCausalLM.from_pretrained(plain))
    assert (beside - start).abs().max() > 1e-3
    torch.testing.assert_close(inside, beside, rtol=1e-4, atol=1e-5)
    again = sweeper(folder, "export", "mine.yaml", "--merge", "--output", "mine-best.yaml")
    assert again.returncode == 2
    assert "is there already: remove it, or name another" in again.stderr


def a_config(model: Path, **settings: Any) -> RunConfig:
    return RunConfig(
        **{"study": "s", "variant": "v", "scenario": "clean", "trial": 0, "block": 0, "seed": 0},
        settings={"model_name_or_path": str(model), "use_peft": True, **settings},
        knobs={},
        data=DataConfig(),
        evaluation=EvaluationConfig(),
    )


def test_what_cannot_be_merged_exactly_is_refused_with_the_reason(tmp_path: Path) -> None:
    base = tmp_path / "model"
    a_model(base, LlamaConfig(**SIZES, tie_word_embeddings=True))
    with pytest.raises(UnusableModel, match="load_in_4bit is set, and an adapter merged into rounded weights"):
        write_plain_model(a_config(base, load_in_4bit=True), tmp_path, tmp_path / "out")
    from peft import LoraConfig, get_peft_model

    asked = LoraConfig(r=4, target_modules=["lm_head"], init_lora_weights=False, task_type="CAUSAL_LM")
    get_peft_model(AutoModelForCausalLM.from_pretrained(base), asked).save_pretrained(tmp_path / "adapter")
    with pytest.raises(UnusableModel, match=r"computes otherwise .* as where layers share a weight"):
        write_plain_model(a_config(base), tmp_path / "adapter", tmp_path / "out")
    config = json.loads((base / "config.json").read_text())
    (base / "config.json").write_text(json.dumps(config | {"quantization_config": {"quant_method": "gptq"}}))
    with pytest.raises(UnusableModel, match="it is quantised, and an adapter"):
        write_plain_model(a_config(base), tmp_path / "adapter", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_registered_version_holds_the_folder_and_says_what_it_is(sweeper: Sweeper, folder: Path) -> None:
    for number in ("1", "2"):
        done = sweeper(folder, "export", "mine.yaml", "--register", "my model")
        assert done.returncode == 0, done.stderr
        assert f"Registered version {number} of my model in MLflow's Model Registry." in done.stdout
    client = connect(f"sqlite:///{folder}/mlflow.db")
    version = client.get_model_version("my model", "2")
    assert version.tags["study"] == "shared"
    assert version.tags["loss"] in ("sigmoid", "ipo")
    assert json.loads(version.tags["settings"]).keys() == {"beta"}
    assert version.tags["answer"]
    assert version.tags["key"] == key_of(folder)
    place = Path(version.source.removeprefix("file://"))
    assert {"README.md", "adapter_model.safetensors"} <= {path.name for path in place.iterdir()}
    refused = sweeper(folder, "export", "mine.yaml", "--register", "a/b:c")
    assert refused.returncode == 2
    assert "must be a name of letters" in refused.stderr


def test_without_a_kept_adapter_it_says_how_to_get_one_and_takes_it(sweeper: Sweeper, folder: Path) -> None:
    assert sweeper(folder, "export", "mine.yaml").returncode == 0
    kept = folder / "runs" / "shared" / key_of(folder) / "adapter"
    shutil.move(kept, folder / "trained")
    wanted = ("--push-to-hub", "ORG/NAME", "--dry-run", "out")
    refused = sweeper(folder, "export", "mine.yaml", *wanted)
    assert refused.returncode == 2
    remedy = (
        "sweeper export mine.yaml && trl dpo --config best.yaml, then: sweeper export mine.yaml --push-to-hub ORG/NAME"
    )
    assert remedy in refused.stderr
    assert "--adapter best-adapter" in refused.stderr
    assert not (folder / "out").exists()
    done = sweeper(folder, "export", "mine.yaml", *wanted, "--adapter", "trained")
    assert done.returncode == 0, done.stderr
    assert (folder / "out" / "adapter_model.safetensors").is_file()
    config = json.loads((folder / "trained" / "adapter_config.json").read_text())
    (folder / "trained" / "adapter_config.json").write_text(json.dumps(config | {"r": 8}))
    other = sweeper(folder, "export", "mine.yaml", *wanted[:2], "--dry-run", "out-2", "--adapter", "trained")
    assert other.returncode == 2
    assert "it is not of the exported config (r 8, not 4)" in other.stderr
    exported = (folder / "best.yaml").read_text()
    (folder / "best.yaml").write_text(exported.replace(f"key {key_of(folder)}", "key 0123456789ab"))
    earlier = sweeper(folder, "export", "mine.yaml", *wanted[:2], "--dry-run", "out-3", "--adapter", "trained")
    assert earlier.returncode == 2
    assert "is of another run than" in earlier.stderr


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (("--public",), "are for --push-to-hub"),
        (("--dry-run", "out"), "are for --push-to-hub"),
        (("--adapter", "model"), "give one of them too"),
        (("--push-to-hub", "NAME"), "must be ORG/NAME"),
        (("--push-to-hub", "../NAME"), "must be ORG/NAME"),
        (("--push-to-hub", "ORG/NAME", "--adapter", "model"), "it holds a whole model"),
        (("--push-to-hub", "ORG/NAME", "--adapter", "nowhere"), "there is no such folder"),
        (("--push-to-hub", "ORG/NAME", "--dry-run", "model"), "is there already"),
    ],
)
def test_options_that_mean_nothing_are_refused_before_anything_is_written(
    sweeper: Sweeper, made: Path, options: tuple[str, ...], said: str
) -> None:
    refused = sweeper(made, "export", "mine.yaml", *options)
    assert refused.returncode == 2
    assert said in refused.stderr
    assert not (made / "best.yaml").exists()


# ---- the Hub --------------------------------------------------------------------------------------------------------


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    served = Hub(licences={"models/ORG/base": "apache-2.0"})
    monkeypatch.setenv("HF_ENDPOINT", served.url)
    monkeypatch.setenv("HF_TOKEN", SECRET)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", served.url)
    yield served
    served.close()


def test_it_is_pushed_privately_as_the_dry_run_wrote_it(sweeper: Sweeper, folder: Path, hub: Hub) -> None:
    push = ("export", "mine.yaml", "--push-to-hub", "ORG/NAME")
    assert sweeper(folder, *push, "--dry-run", "out").returncode == 0
    assert hub.asked == []
    done = sweeper(folder, *push)
    assert done.returncode == 0, done.stderr
    assert f"Pushed to {hub.url}/ORG/NAME." in done.stdout
    assert hub.private == {"ORG/NAME": True}
    assert {path.name: path.read_bytes() for path in (folder / "out").iterdir()} == hub.files["ORG/NAME"]
    assert SECRET not in done.stdout + done.stderr
    assert sweeper(folder, *push).returncode == 0  # again, into its own repository


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        ("no token", "sign in by `hf auth login`"),
        ("bad token", "does not know the token"),
        ("may not write", "may not write to ORG/NAME"),
        ("broken", "did not take ORG/NAME"),
        ("away", "cannot be reached"),
        ("offline", "HF_HUB_OFFLINE is set"),
        ("public", "say --public"),
        ("other files", "holds files that no export has made (model.safetensors)"),
    ],
)
def test_what_keeps_it_from_the_hub_is_one_sentence_with_its_remedy(
    sweeper: Sweeper, folder: Path, hub: Hub, monkeypatch: pytest.MonkeyPatch, trouble: str, said: str
) -> None:
    match trouble:
        case "no token":
            monkeypatch.delenv("HF_TOKEN")
            monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(folder / "none"))
            monkeypatch.setattr("huggingface_hub.utils._auth.constants.HF_STORED_TOKENS_PATH", str(folder / "none"))
        case "bad token" | "may not write" | "broken":
            hub.status = {"bad token": 401, "may not write": 403, "broken": 500}[trouble]
        case "away":
            hub.close()
        case "offline":
            monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
        case "public" | "other files":
            hub.private["ORG/NAME"] = trouble != "public"
            hub.files["ORG/NAME"] = {} if trouble == "public" else {"model.safetensors": b"theirs"}
    before = dict(hub.files.get("ORG/NAME", {}))
    failed = sweeper(folder, "export", "mine.yaml", "--push-to-hub", "ORG/NAME")
    assert failed.returncode == 1, failed.stderr
    (line,) = [line for line in failed.stderr.splitlines() if line.startswith("error: ")]
    assert said in line
    assert SECRET not in failed.stderr
    assert "Traceback" not in failed.stderr
    assert hub.files.get("ORG/NAME", {}) == before


# ---- places ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "/home/me/x.jsonl",
        "../shared/data/x",
        "~/x",
        "~bob/x/y",
        "file:///home/x",
        "C:\\Users\\bob",
        "\\\\server\\x",
        "./a",
    ],
)
def test_a_place_of_the_machine_is_replaced(text: str) -> None:
    assert without_places(f"read {text}, and '{text}' (a={text})") == f"read {PLACE}, and '{PLACE}' (a={PLACE})"


def test_a_setting_with_a_place_or_a_secret_in_it_is_left_out_at_any_depth() -> None:
    kept = {"beta": 0.1, "loss_type": ["sigmoid"], "lora_target_modules": "all-linear", "lr_scheduler_kwargs": {"a": 1}}
    out = {"a": "/home/me", "b": {"c": ["~/x"]}, "d": [{"of": SECRET}], "e": {"/tmp/x": 1}, "hub_token": "short"}
    assert public_settings({**kept, **out}) == kept


@pytest.mark.parametrize(
    ("schedule", "folder"), [("constant", "best-adapter"), ("linear", "best-adapter/checkpoint-60")]
)
def test_what_stops_before_its_end_has_to_be_trained_and_says_where_that_will_lie(
    tmp_path: Path, schedule: str, folder: str
) -> None:
    config = a_config(tmp_path, max_steps=120, lr_scheduler_type=schedule)
    chosen = Chosen(cast(Any, None), a_record(), config, config, step=60)
    how = Retraining("sweeper export q", Path("best.yaml"), "sweeper export q --merge")
    said = (
        rf"stops at step 60, .* Train it: sweeper export q && trl dpo --config best.yaml, then: .* --adapter {folder}$"
    )
    with pytest.raises(ExportError, match=said):
        find_weights(chosen, tmp_path, None, how)


def test_a_place_with_spaces_is_replaced_whole_where_it_is_quoted() -> None:
    for text in ("'data.path=/mnt/My Clients/acme.jsonl'", '"/mnt/My Clients/acme.jsonl"', "'~/My Clients'"):
        assert "Clients" not in without_places(f"sweeper run x --set {text} and 'this' or /that")


def test_a_setting_that_names_what_lies_here_is_not_shared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clients").mkdir()
    assert _without_place("data.path=clients") == f"data.path={PLACE}"
    assert _without_place("budget.trials=4") == "budget.trials=4"


def test_fractions_addresses_and_names_stay() -> None:
    text = "[/INST] <s>[INST] </s> 14/16 and/or https://huggingface.co/ORG/NAME `ORG/NAME` 1 / 2 \\* at 0.5 | a\\|b [x](https://a.b/c)"
    assert without_places(text) == text
