"""Models that lack what others have: each trains as stock TRL does, or is refused with the way out, never retried."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from studies.records import Cause, DataConfig, EvaluationConfig, RunConfig, RunResult
from trainers.dpo import DPOTrainerWorker
from trainers.interface import Job, Placement
from trainers.job_list import train_all

BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())
CHAT = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no system role') }}{% endif %}"
    "{{ m.role }}: {{ m.content }}</s>{% endfor %}{% if add_generation_prompt %}assistant: {% endif %}"
)
SPECIAL = {"eos_token": "</s>", "pad_token": "<pad>", "bos_token": "<s>"}
TEXT = [{"prompt": f"Q{i}:", "chosen": f" yes {i}", "rejected": f" no {i}!"} for i in range(8)]
MESSAGES = [
    {
        "prompt": [{"role": "user", "content": f"Q{i}"}],
        "chosen": [{"role": "assistant", "content": f"yes {i}"}],
        "rejected": [{"role": "assistant", "content": f"no {i}!"}],
    }
    for i in range(8)
]
SYSTEM = [{**row, "prompt": [{"role": "system", "content": "Be kind."}, *row["prompt"]]} for row in MESSAGES]


def a_tokenizer(special: dict[str, str], chat_template: str | None = None, bos: bool = False) -> Any:
    """Bytes as tokens, the special ones after them in the order given, which may be put before every text."""
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(BYTES)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    loaded = PreTrainedTokenizerFast(tokenizer_object=tokenizer, chat_template=chat_template, **special)
    if bos:
        token = (loaded.bos_token, loaded.bos_token_id)
        loaded.backend_tokenizer.post_processor = processors.TemplateProcessing(
            single=f"{token[0]} $A", special_tokens=[token]
        )
    return loaded


def a_model(folder: Path, tokenizer: Any, rows: int) -> str:
    """A Llama of a few thousand weights with `rows` rows of embedding."""
    config = LlamaConfig(
        vocab_size=rows,
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(params=[0, 1], ids=["alone", "in-a-pack"])
def train(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., RunResult]:
    def train_on(
        tokenizer: Any,
        rows: list[Any],
        embedding: int | None = None,
        change: Callable[[Path], None] = lambda folder: None,
    ) -> RunResult:
        model = a_model(tmp_path / "model", tokenizer, embedding or len(tokenizer))
        change(Path(model))
        data = tmp_path / "pairs.jsonl"
        data.write_text("\n".join(map(json.dumps, rows)))
        settings = {
            "model_name_or_path": model,
            "use_peft": True,
            "lora_r": 2,
            "loss_type": ["sigmoid"],
            "beta": 0.1,
            "learning_rate": 1e-3,
            "max_steps": 2,
            "per_device_train_batch_size": 2,
        }
        where = {"study": "odd", "variant": "sigmoid", "scenario": "clean", "trial": 0, "block": 0, "seed": 0}
        config = RunConfig(
            **where,
            settings=settings,
            knobs={},
            data=DataConfig(path=str(data), eval_rows=2),
            evaluation=EvaluationConfig(prompts=2, max_new_tokens=4),
        )
        (result,) = train_all(
            DPOTrainerWorker(), [Job(config, tmp_path / "run", placement=Placement(together=request.param))]
        )
        return result

    return train_on


@pytest.mark.parametrize(
    ("special", "options", "rows"),
    [
        ({"eos_token": "</s>"}, {}, TEXT),
        ({"eos_token": "</s>"}, {"chat_template": CHAT}, MESSAGES),
        (SPECIAL, {"bos": True}, TEXT),
        (SPECIAL, {"bos": True, "chat_template": CHAT}, MESSAGES),
    ],
    ids=["no-pad-token", "no-pad-token-messages", "adds-a-begin-token", "adds-a-begin-token-messages"],
)
def test_a_model_that_stock_trl_trains_is_trained(
    special: dict[str, str], options: dict[str, Any], rows: list[Any], train: Callable[..., RunResult]
) -> None:
    result = train(a_tokenizer(special, **options), rows)
    assert result.cause is Cause.FINISHED, result.message
    assert {"kl", "margin", "ranking_gain"} <= set(result.final())


@pytest.mark.parametrize(
    ("tokenizer", "rows", "told"),
    [
        (lambda: a_tokenizer({"pad_token": "<pad>"}), TEXT, "no end token"),
        (lambda: a_tokenizer(SPECIAL), MESSAGES, "no chat template"),
        (lambda: a_tokenizer(SPECIAL, chat_template=CHAT), SYSTEM, "roles system, user"),
    ],
    ids=["no-end-token", "messages-without-a-chat-template", "a-template-that-knows-no-system-role"],
)
def test_a_model_that_cannot_train_on_the_data_is_refused_with_the_reason(
    tokenizer: Callable[[], Any], rows: list[Any], told: str, train: Callable[..., RunResult]
) -> None:
    result = train(tokenizer(), rows)
    assert result.cause is Cause.REFUSED, result.message
    assert told in result.message


def _code_in_a_pickle(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    torch.save({"weights": shutil.rmtree}, folder / "pytorch_model.bin")


def _cut_in_half(folder: Path) -> None:
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[: weights.stat().st_size // 2])


def _configured(folder: Path, name: str, more: int) -> None:
    _changed(folder, **{name: json.loads((folder / "config.json").read_text())[name] + more})


def _changed(folder: Path, **changes: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def _of_a_later_version(folder: Path) -> None:
    file = folder / "tokenizer.json"
    file.write_text(file.read_text().replace('"BPE"', '"Later"'))


def _without_a_tokenizer(folder: Path) -> None:
    for file in folder.glob("*token*"):
        file.unlink()


WRONG: dict[str, tuple[Callable[[Path], object], str]] = {
    "a-layer-that-no-file-has": (
        lambda folder: _configured(folder, "num_hidden_layers", 1),
        "its files lack 9 weights that its config.json asks for, such as model.layers.",
    ),
    "a-config-of-another-size": (
        lambda folder: _configured(folder, "intermediate_size", 8),
        "its weights have other shapes than its config.json says",
    ),
    "no-tokenizer": (_without_a_tokenizer, "the folder has no tokenizer: save that of the model beside its weights"),
    "a-tokenizer-that-is-no-json": (
        lambda folder: (folder / "tokenizer.json").write_text('{"a":'),
        "a file of its tokenizer is no JSON",
    ),
    "a-tokenizer-of-its-config-alone": (
        lambda folder: (folder / "tokenizer.json").unlink(),
        "the folder has no tokenizer: save that of the model beside its weights",
    ),
    "a-tokenizer-of-nothing": (lambda folder: (folder / "tokenizer.json").write_text("{}"), "load it again, or update"),
    "a-tokenizer-of-later": (_of_a_later_version, "is not as this transformers reads it (Exception: data did not"),
    "a-config-without-a-class": (
        lambda folder: _changed(folder, architectures=None),
        "its config.json says no architectures, by which TRL takes its class",
    ),
    "weights-that-are-cut": (_cut_in_half, "a file of its weights is cut or damaged"),
}


DAMAGE: dict[str, Callable[[Path], object]] = {
    "code-in-a-pickle": _code_in_a_pickle,
    "half-of-the-weights": _cut_in_half,
    "no-weights": lambda folder: (folder / "model.safetensors").unlink(),
    "a-config-that-is-no-json": lambda folder: (folder / "config.json").write_text("{"),
    "a-tokenizer-nested-without-end": lambda folder: (folder / "tokenizer.json").write_text("[" * 100_000),
    "a-tokenizer-without-its-parts": lambda folder: (folder / "tokenizer.json").write_text("{}"),
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_files_that_are_none_of_a_model_are_refused_and_not_tried_again(
    damage: Callable[[Path], object], train: Callable[..., RunResult]
) -> None:
    result = train(a_tokenizer(SPECIAL), TEXT, change=damage)
    assert result.cause is Cause.REFUSED, result.message
    assert "model cannot be used" in result.message


@pytest.mark.parametrize(("change", "told"), WRONG.values(), ids=WRONG)
def test_what_is_wrong_with_the_files_is_told_and_no_weight_drawn_in_its_place(
    change: Callable[[Path], object], told: str, train: Callable[..., RunResult]
) -> None:
    result = train(a_tokenizer(SPECIAL), TEXT, change=change)
    assert result.cause is Cause.REFUSED, result.message
    assert told in result.message
    assert "pip install" not in result.message


def test_an_id_without_a_row_in_the_embedding_is_refused_by_name(train: Callable[..., RunResult]) -> None:
    pad_is_last = a_tokenizer({"eos_token": "</s>", "pad_token": "<pad>"})
    result = train(pad_is_last, TEXT, embedding=len(pad_is_last) - 1)
    assert result.cause is Cause.REFUSED, result.message
    assert "'<pad>' the id 257, but its embedding has 257 rows" in result.message


def test_a_token_of_the_data_without_a_row_in_the_embedding_is_refused_by_name(train: Callable[..., RunResult]) -> None:
    tokenizer = a_tokenizer({"eos_token": "</s>"})
    tokenizer.add_tokens(["<unheard>"])
    rows = [*TEXT, {"prompt": "Q:", "chosen": " <unheard>", "rejected": " no"}]
    result = train(tokenizer, rows, embedding=len(tokenizer) - 1)
    assert result.cause is Cause.REFUSED, result.message
    assert "'<unheard>'" in result.message


def test_a_token_that_a_template_puts_before_answers_alone_is_refused_by_name(train: Callable[..., RunResult]) -> None:
    template = CHAT.replace("{% if add_generation_prompt %}", "{% if add_generation_prompt %}<unheard>")
    tokenizer = a_tokenizer({"eos_token": "</s>"}, chat_template=template)
    tokenizer.add_tokens(["<unheard>"])
    result = train(tokenizer, MESSAGES, embedding=len(tokenizer) - 1)
    assert result.cause is Cause.REFUSED, result.message
    assert "'<unheard>'" in result.message


def test_a_tokenizer_with_more_tokens_than_the_embedding_trains_where_none_of_them_occurs(
    train: Callable[..., RunResult],
) -> None:
    tokenizer = a_tokenizer({"eos_token": "</s>"})
    tokenizer.add_tokens(["<unheard>"])
    result = train(tokenizer, TEXT, embedding=len(tokenizer) - 1)
    assert result.cause is Cause.FINISHED, result.message


OWN_CODE = """
from transformers import LlamaConfig, LlamaForCausalLM
open({ran!r}, "w").close()
class OwnConfig(LlamaConfig):
    model_type = "own"
class Own(LlamaForCausalLM):
    config_class = OwnConfig
"""


def test_code_that_lies_with_a_model_does_not_run_unasked(train: Callable[..., RunResult], tmp_path: Path) -> None:
    ran = tmp_path / "ran"

    def bring_own_code(folder: Path) -> None:
        (folder / "own.py").write_text(OWN_CODE.format(ran=str(ran)))
        config = json.loads((folder / "config.json").read_text())
        config |= {"model_type": "own", "auto_map": {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.Own"}}
        (folder / "config.json").write_text(json.dumps(config))

    result = train(a_tokenizer(SPECIAL), TEXT, change=bring_own_code)
    assert result.cause is Cause.REFUSED, result.message
    assert "trust_remote_code" in result.message
    assert not ran.exists()
