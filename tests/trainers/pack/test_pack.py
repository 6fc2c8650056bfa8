"""A pack gives what plain `DPOTrainer` gives, whatever else is in it, and its life cycle loses nothing."""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from peft import PeftModel
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedConfig
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from studies.records import ALONE_FACT, EMBEDDED_GPT2, Cause, RunConfig, RunResult
from tests.trainers.pack_runs import (
    LOSSES,
    apart,
    assert_rounding,
    config,
    distance,
    exact_training,
    float64,
    more_padding,
    plain_training,
    scored_beside,
    train,
    weights,
)
from trainers.dpo import DPOTrainerWorker, load_adapter
from trainers.interface import Decision, Job, Placement
from trainers.job_list import JobList
from trainers.multi_lora import llama_body as llama
from trainers.multi_lora.layout import ATTENTION
from trainers.pack.engine import Engine
from trainers.pack.pack import Pack
from trainers.run_folder.results import read_result
from trainers.world.paths import model_path


def numbers(result: RunResult) -> dict[str, float]:
    """Everything measured but time and memory."""
    cost = {"train_seconds", "evaluation_seconds", "steps_per_second", "tokens_per_second", "peak_memory"}
    return {f"{m.name}@{m.step}": m.value for m in result.measurements if m.name not in cost}


# ---- the same numbers as stock TRL --------------------------------------------------------------------------------

# An epoch is 7 or 8 steps: the second one begins with another order of the rows.
SHORT = {"rows": 32, "max_steps": 10}
FIVE = (
    config("sigmoid", lora_r=4, seed=0, **SHORT),
    config("ipo", lora_r=8, seed=1, beta=0.5, learning_rate=1e-3, weight_decay=0.0, **SHORT),
    config("robust", lora_r=2, label_flip=0.25, gradient_accumulation_steps=2, lr_scheduler_type="linear", **SHORT),
    config("aot", lora_r=4, seed=1, max_grad_norm=0.05, adam_beta2=0.99, **SHORT),
    config(
        "sigmoid", "ipo", loss_weights=[0.7, 0.3], block=1, warmup_steps=0, use_rslora=True, **{**SHORT, "rows": 29}
    ),
    config("bco_pair", lora_target_modules=["q_proj", "v_proj"], rows=32, max_steps=9, num_train_epochs=1.0),
)


def test_in_float64_a_mixed_pack_gives_the_adapters_of_plain_dpo_trainers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with float64(monkeypatch):
        results = train(tmp_path / "pack", FIVE, together=len(FIVE))
        for run, result in zip(FIVE, results, strict=True):
            assert result.cause in (Cause.FINISHED, Cause.COLLAPSED), result.message
            assert result.facts["together"] == len(FIVE)
            stock = plain_training(tmp_path / "stock" / run.key, run)
            assert distance(weights(tmp_path / "pack", run), stock) < 1e-9, run.settings["loss_type"]


def on_gpt2(run: RunConfig) -> RunConfig:
    """The run on the other embedded model and its pairs."""
    settings = {**run.settings, "model_name_or_path": EMBEDDED_GPT2}
    return run.model_copy(update={"settings": settings, "data": run.data.model_copy(update={"path": EMBEDDED_GPT2})})


def test_in_float64_a_pack_on_the_gpt2_gives_the_adapters_of_plain_dpo_trainers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its layers are transposed and have biases, its positions are learned, and it goes through its own code."""
    runs = [on_gpt2(config("discopop", seed=1, discopop_tau=0.2, **SHORT)), on_gpt2(config(lora_r=8, **SHORT))]
    with float64(monkeypatch):
        results = train(tmp_path / "pack", runs, together=2)
        for run, result in zip(runs, results, strict=True):
            assert (result.cause, result.facts["together"]) == (Cause.FINISHED, 2), result.message
            assert ALONE_FACT not in result.facts
            stock = plain_training(tmp_path / "stock" / run.key, run)
            assert distance(weights(tmp_path / "pack", run), stock) < 1e-9, run.settings["loss_type"]


@pytest.mark.parametrize("together", [0, 2])
def test_a_run_records_the_gold_of_the_untrained_model_on_its_block(tmp_path: Path, together: int) -> None:
    runs = [config(block=block, learning_rate=0.0, max_steps=1) for block in (0, 1)]
    results = train(tmp_path, runs, together=together)
    found = [result.facts["reference_gold"] for result in results]
    assert found == [pytest.approx(result.final()["gold"].value) for result in results]
    assert found[0] != found[1]


@pytest.mark.parametrize("together", [0, 3])
def test_what_has_not_learned_ranks_no_pair_otherwise(tmp_path: Path, together: int) -> None:
    """Whatever rounds otherwise in a pack's layout."""
    runs = [config(beta=0.1 * i, learning_rate=0.0, max_steps=1) for i in (1, 2, 3)]
    for result in train(tmp_path, runs, together=together):
        assert (result.final()["accuracy"].value, result.final()["train_accuracy"].value) == (0.5, 0.5)
        assert result.final()["ranking_gain"].value == 0.0


@pytest.mark.soak
def test_in_float64_every_loss_gives_the_adapter_of_a_plain_dpo_trainer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [config(name, seed=i % 2, lora_r=4 + 4 * (i % 2), label_flip=0.2 * (i % 3)) for i, name in enumerate(LOSSES)]
    runs += [config("sigmoid", "sft", loss_weights=[1.0, 0.5], max_steps=40)]
    with float64(monkeypatch):
        train(tmp_path / "pack", runs, together=len(runs))
        for run in runs:
            stock = plain_training(tmp_path / "stock" / run.key, run)
            assert distance(weights(tmp_path / "pack", run), stock) < 1e-9, run.settings["loss_type"]


def within_rounding(folder: Path, runs: list[RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed and stock differ, and by no more than stock in float32 from stock in float64, or in bf16 from stock with
    more padding, with room.
    """
    train(folder / "pack", runs, together=len(runs))
    for run in runs:
        packed, stock = weights(folder / "pack", run), plain_training(folder / "stock" / run.key, run)
        assert apart(packed, stock) > 0
        narrow = run.settings.get("bf16")
        other = more_padding(folder / "a", run) if narrow else exact_training(folder / "b", run, monkeypatch)
        assert_rounding(packed, stock, other)


def as_exact_as_stock(folder: Path, runs: list[RunConfig], monkeypatch: pytest.MonkeyPatch) -> None:
    """Packed is about as near to the run in float64 as stock is, whatever precision both have: a rounding of either is
    one of many, so that single losses come out nearer or farther (.68 to 1.35 in bf16) and the middle one decides.
    """
    train(folder / "pack", runs, together=len(runs))
    ratios = {}
    for run in runs:
        exact = exact_training(folder / "exact" / run.key, run, monkeypatch)
        stock = plain_training(folder / "stock" / run.key, run)
        ratios[str(run.settings["loss_type"])] = apart(weights(folder / "pack", run), exact) / apart(stock, exact)
    assert min(ratios.values()) > 0, ratios
    assert statistics.median(ratios.values()) <= 1.25, ratios
    assert max(ratios.values()) <= 1.5, ratios


@pytest.mark.slow
def test_in_float32_a_pack_differs_from_stock_by_rounding(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [config("sigmoid", max_steps=16), config("ipo", beta=0.5, learning_rate=5e-4, max_steps=16)]
    within_rounding(tmp_path, runs, monkeypatch)


@pytest.mark.slow
def test_in_float32_a_pack_on_the_gpt2_differs_from_stock_by_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    within_rounding(tmp_path, [on_gpt2(config(name, max_steps=16)) for name in ("sigmoid", "ipo")], monkeypatch)


@pytest.mark.soak
@pytest.mark.parametrize("learning_rate", [5e-4, 2e-3])
def test_in_float32_every_loss_differs_from_stock_by_rounding(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, learning_rate: float
) -> None:
    within_rounding(tmp_path, [config(name, learning_rate=learning_rate) for name in LOSSES], monkeypatch)


@pytest.mark.slow
def test_in_bf16_a_pack_differs_from_stock_as_stock_with_more_padding_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    within_rounding(tmp_path, [config("sigmoid", bf16=True, max_steps=16)], monkeypatch)


@pytest.mark.soak
def test_in_bf16_every_loss_differs_from_stock_as_stock_with_more_padding_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    within_rounding(tmp_path, [config(name, bf16=True) for name in LOSSES], monkeypatch)


@pytest.mark.slow
def test_in_bf16_a_pack_is_as_near_to_exact_arithmetic_as_stock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    as_exact_as_stock(tmp_path, [config("sigmoid", bf16=True, max_steps=20)], monkeypatch)


@pytest.mark.soak
@pytest.mark.parametrize("bf16", [False, True])
def test_every_loss_is_as_near_to_exact_arithmetic_as_stock(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bf16: bool
) -> None:
    as_exact_as_stock(tmp_path, [config(name, bf16=bf16) for name in LOSSES], monkeypatch)


# ---- nobody's neighbour -------------------------------------------------------------------------------------------


def test_a_run_does_not_depend_on_its_neighbours_its_place_or_the_size_of_the_pack(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    short = {"max_steps": 14}
    run = config("hinge", seed=1, **short)
    dies = config("sigmoid", learning_rate=1e30, max_grad_norm=0.0, **short)  # its weights overflow
    neighbours = {
        "alone": [run],
        "last": [config("ipo", lora_r=8, block=1, **short), config("robust", label_flip=0.4, rows=50, **short), run],
        "beside one that diverges": [dies, run, config("sft", **short)],
    }
    with float64(monkeypatch):
        found = {}
        for name, runs in neighbours.items():
            results = train(tmp_path / name, runs, together=len(runs))
            found[name] = (weights(tmp_path / name, run), numbers(results[runs.index(run)]))
            if dies in runs:
                assert results[0].cause is Cause.NON_FINITE
                assert len(results[0].curve) < 14  # it was let go
    alone, measured = found.pop("alone")
    for name, (adapter, again) in found.items():
        assert distance(adapter, alone) < 1e-9, name
        assert again == pytest.approx(measured, abs=1e-9), name


@pytest.mark.slow
def test_a_run_is_the_same_first_or_fourth_in_its_worker(tmp_path: Path) -> None:
    worker, run = DPOTrainerWorker(), config("sigmoid", max_steps=8)
    train(tmp_path / "first", [run], 1, worker)
    others = [config("ipo", max_steps=4, lora_r=8), config("sigmoid", "ipo", max_steps=5, gradient_checkpointing=True)]
    train(tmp_path / "others", others, 2, worker)
    train(tmp_path / "alone", [config("hinge", max_steps=4)], 0, worker)
    train(tmp_path / "again", [run], 1, worker)
    assert distance(weights(tmp_path / "first", run), weights(tmp_path / "again", run)) == 0.0
    assert numbers(_result(tmp_path / "first", run)) == numbers(_result(tmp_path / "again", run))


def test_checkpointing_and_parts_of_micro_batches_change_no_number(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [config("sigmoid", max_steps=10), config("aot", max_steps=10, gradient_accumulation_steps=2)]
    with float64(monkeypatch):
        train(tmp_path / "plain", runs, 2)
        train(tmp_path / "parts", runs, 2, checkpointing=True, split=2)
    for run in runs:
        assert distance(weights(tmp_path / "plain", run), weights(tmp_path / "parts", run)) < 1e-9
        a, b = _result(tmp_path / "plain", run), _result(tmp_path / "parts", run)
        for (step, values), (other, again) in zip(a.curve[2:], b.curve[2:], strict=True):  # before, every pair is a tie
            assert step == other
            assert again == pytest.approx(values, abs=1e-9)


def test_in_float64_the_curve_of_a_pack_is_the_curve_of_stock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = config("robust", max_steps=12, gradient_accumulation_steps=2)
    scored_beside(monkeypatch)
    with float64(monkeypatch):
        (packed,) = train(tmp_path / "pack", [run], 1)
        (stock,) = train(tmp_path / "stock", [run], 0)
    assert [step for step, _ in packed.curve] == [step for step, _ in stock.curve]
    # Before, every pair is a tie. Trainer adds the losses of a step up in float32, which is the same on every machine.
    for (_, values), (_, expected) in zip(packed.curve[2:], stock.curve[2:], strict=True):
        assert values["loss"] == pytest.approx(expected["loss"], rel=2**-22)
        assert {**values, "loss": 0.0} == pytest.approx({**expected, "loss": 0.0}, abs=1e-9)


def _result(folder: Path, run: RunConfig) -> RunResult:
    found = read_result(folder / run.key)
    assert found is not None
    return found


# ---- life cycle ---------------------------------------------------------------------------------------------------


@pytest.fixture
def passes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many runs went through each pass."""
    seen: list[int] = []
    plain = Engine.accumulate

    def counted(self: Engine, work: Any, precision: Any) -> Any:
        seen.append(len(work))
        return plain(self, work, precision)

    monkeypatch.setattr(Engine, "accumulate", counted)
    return seen


def test_a_place_that_becomes_free_is_taken_by_the_next_run(tmp_path: Path, passes: list[int]) -> None:
    steps = (3, 9, 4, 5, 2)
    runs = [config("sigmoid", max_steps=n, beta=0.1 + 0.01 * n) for n in steps]
    results = train(tmp_path, runs, together=2)
    assert [r.facts["steps"] for r in results] == list(steps)
    assert max(passes) == 2
    assert sum(passes) == sum(steps)
    assert Counter(passes)[1] <= 1  # 23 run-steps in twelve passes


def test_a_stopped_run_costs_nothing_more(tmp_path: Path, passes: list[int]) -> None:
    runs = [config("sigmoid", max_steps=12), config("ipo", max_steps=12)]
    stopped, other = train(
        tmp_path,
        runs,
        together=2,
        decide=lambda key, step, _: Decision.STOP if key == runs[0].key and step == 4 else Decision.CONTINUE,
    )
    assert (stopped.cause, stopped.facts["steps"]) == (Cause.USER_STOP, 4)
    assert (other.cause, other.facts["steps"]) == (Cause.FINISHED, 12)
    assert passes == [2] * 4 + [1] * 8


def test_in_float64_the_adapter_on_disk_is_what_peft_loads_and_the_pack_trained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = config("sigmoid", use_rslora=True, lora_alpha=12, max_steps=10)
    worker, desk = DPOTrainerWorker(), JobList([])
    job = Job(run, tmp_path / "again", placement=Placement())
    with float64(monkeypatch):
        (result,) = train(tmp_path, [run], 1)
        policy, tokenizer = load_adapter(run, tmp_path / run.key / "adapter")
        assert isinstance(policy, PeftModel)
        ids = tokenizer("a plain review of the new film :", return_tensors="pt").input_ids
        pack: Pack = worker.empty_pack(job)
        pack.admit([worker.make(job)])
        for _ in range(10):
            pack.train_micro_batch()
        with torch.no_grad():
            expected = pack.adapters.model.eval()(ids).logits
            torch.testing.assert_close(policy.eval()(ids).logits, expected, rtol=0, atol=1e-9)
    assert result.adapter == "adapter"
    assert desk.results == {}


def test_an_evaluation_that_does_not_fit_is_made_after_the_pack_was_halved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = Pack.evaluate

    def limited(self: Pack, slots: Any) -> Any:
        if len(slots) > 1:
            raise torch.OutOfMemoryError("no room")
        return plain(self, slots)

    monkeypatch.setattr(Pack, "evaluate", limited)
    runs = [config("sigmoid", max_steps=4, beta=0.1 * (i + 1), at=(0.5, 1.0)) for i in range(3)]
    results = train(tmp_path, runs, together=3)
    assert [r.cause for r in results] == [Cause.FINISHED] * 3
    assert [{m.step for m in r.measurements if m.name == "gold"} for r in results] == [{2, 4}] * 3


class Killed(BaseException):
    """Ends a worker in the middle."""


def test_a_killed_run_goes_on_from_its_last_state_with_the_numbers_of_an_uninterrupted_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [
        config("sigmoid", "ipo", gradient_accumulation_steps=2, max_steps=12),
        config("robust", lora_r=8, seed=1, max_steps=20),
    ]
    worker = DPOTrainerWorker(keep_every=0.0)

    def kill(key: str, step: int, _: Any) -> Decision:
        if key == runs[0].key and step >= 6:
            raise Killed
        return Decision.CONTINUE

    with float64(monkeypatch):
        whole = train(tmp_path / "whole", runs, together=2)
        with pytest.raises(Killed):
            train(tmp_path / "killed", runs, together=2, decide=kill, worker=worker)
        state = tmp_path / "killed" / runs[1].key / "state.safetensors"
        damaged = bytearray(state.read_bytes())
        damaged[-1] ^= 1
        state.write_bytes(damaged)  # this one falls back to the state before
        with pytest.warns(UserWarning, match="not what was written"):
            resumed = train(tmp_path / "killed", runs[::-1], together=2)[::-1]
    for run, a, b in zip(runs, whole, resumed, strict=True):
        assert distance(weights(tmp_path / "whole", run), weights(tmp_path / "killed", run)) < 1e-9
        assert numbers(a) == pytest.approx(numbers(b), abs=1e-9)
        assert [step for step, _ in a.curve] == [step for step, _ in b.curve]
        assert not list((tmp_path / "killed" / run.key).glob("state*"))


@pytest.mark.parametrize("fits", [3, pytest.param(1, marks=pytest.mark.slow)])
def test_a_pack_that_does_not_fit_is_halved_and_no_run_is_lost(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, passes: list[int], fits: int
) -> None:
    counted = Engine.accumulate

    def limited(self: Engine, work: Any, precision: Any) -> Any:
        if len(work) > fits:
            raise torch.OutOfMemoryError("no room")
        return counted(self, work, precision)

    monkeypatch.setattr(Engine, "accumulate", limited)
    runs = [config("sigmoid", max_steps=4, beta=0.1 * (i + 1)) for i in range(5)]
    results = train(tmp_path, runs, together=5)
    assert [(r.cause, r.facts["steps"]) for r in results] == [(Cause.FINISHED, 4)] * 5
    assert max(passes) <= fits


def test_a_run_that_does_not_fit_alone_is_out_of_memory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> Any:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes")

    monkeypatch.setattr(Engine, "accumulate", full)
    results = train(tmp_path, [config("sigmoid", max_steps=4), config("ipo", max_steps=4)], together=2)
    assert all(str(r.cause).startswith("out_of") for r in results)


@pytest.mark.parametrize(
    "settings",
    [
        {"use_peft": False},
        pytest.param({"optim": "sgd"}, marks=pytest.mark.slow),
        {"use_weighting": True},
        pytest.param({"neftune_noise_alpha": 5.0}, marks=pytest.mark.slow),
    ],
)
def test_what_cannot_share_a_pass_is_trained_alone_among_the_others(tmp_path: Path, settings: dict[str, Any]) -> None:
    lora = {"lora_r": None, "lora_alpha": None, "lora_target_modules": None, "lora_dropout": None}
    odd = config("sigmoid", max_steps=4, **settings)
    if settings == {"use_peft": False}:
        kept = {k: v for k, v in odd.settings.items() if k not in lora}
        odd = odd.model_copy(update={"settings": kept})
    runs = [config("ipo", max_steps=4), odd, config("hinge", max_steps=4)]
    results = train(tmp_path, runs, together=3)
    assert [r.cause for r in results] == [Cause.FINISHED] * 3
    assert ["together" in r.facts for r in results] == [True, False, True]


def test_what_trl_refuses_is_one_result_among_the_others(tmp_path: Path) -> None:
    runs = [config("ipo", max_steps=4), config("exo_pair", max_steps=4, label_smoothing=0.0)]
    finished, refused = train(tmp_path, runs, together=2)
    assert finished.cause is Cause.FINISHED
    assert refused.cause is Cause.REFUSED
    assert "smoothing" in refused.message


def attends_differently(patch: pytest.MonkeyPatch) -> None:
    """As a model may whose attention is not what the pack takes it for."""
    plain = ALL_ATTENTION_FUNCTIONS.get_interface

    def find(name: str, default: Any) -> Any:
        function = plain(name, default)
        return (lambda *a, **k: (function(*a, **k)[0] * 1.1, None)) if name == ATTENTION else function

    patch.setattr(llama, "fits", lambda *_: False)
    patch.setattr(ALL_ATTENTION_FUNCTIONS, "get_interface", find)


def turns_differently(patch: pytest.MonkeyPatch) -> None:
    """As a Llama may whose positions are not what the pack takes them for."""
    plain = llama._turn
    patch.setattr(llama, "_turn", lambda *a: plain(*a) * 1.1)


@pytest.mark.parametrize("differs", [attends_differently, turns_differently])
def test_a_base_that_the_layout_does_not_fit_is_found_out_and_trained_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, differs: Callable[[pytest.MonkeyPatch], None]
) -> None:
    differs(monkeypatch)
    (result,) = train(tmp_path, [config("sigmoid", max_steps=4)], together=2)
    assert result.cause is Cause.FINISHED
    assert "together" not in result.facts


SMALL = {"vocab_size": 96, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {"intermediate_size": 64, "num_key_value_heads": 2, "max_position_embeddings": 128}
ARCHITECTURES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "grouped heads": (transformers.LlamaConfig, {**SMALL, **LLAMA}),
    "biases": (transformers.Qwen2Config, {**SMALL, **LLAMA}),
    "norms of queries and keys": (transformers.Qwen3Config, {**SMALL, **LLAMA, "head_dim": 8}),
    "a window as long as the rows": (transformers.MistralConfig, {**SMALL, **LLAMA, "sliding_window": 64}),
    "learned positions, Conv1D": (
        transformers.GPT2Config,
        {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128},
    ),
    "a shorter window": (transformers.MistralConfig, {**SMALL, **LLAMA, "sliding_window": 8}),
    "capped logits": (transformers.Gemma2Config, {**SMALL, **LLAMA, "head_dim": 8, "sliding_window": 64}),
    "no attention interface": (
        transformers.BloomConfig,
        {"vocab_size": 96, "hidden_size": 32, "n_layer": 2, "n_head": 4},
    ),
}
ALONE = {"a shorter window", "capped logits", "no attention interface"}
AS_GROUPED_HEADS = {"biases", "norms of queries and keys", "a window as long as the rows"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] * (name in AS_GROUPED_HEADS)) for name in ARCHITECTURES]
)
def test_an_architecture_is_packed_where_the_numbers_are_those_of_stock_and_trained_alone_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    kind, settings = ARCHITECTURES[name]
    path = tmp_path / "model"
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    torch.manual_seed(0)
    AutoModelForCausalLM.from_config(kind(**{**settings, **ids, "vocab_size": len(tokenizer)})).save_pretrained(path)
    tokenizer.save_pretrained(path)
    run = config("sigmoid", model_name_or_path=str(path), max_steps=8, warmup_steps=0)
    (result,) = train(tmp_path / "pack", [run], together=2)
    assert result.cause in (Cause.FINISHED, Cause.COLLAPSED, Cause.INVERTED), result.message
    assert ("together" not in result.facts) == (name in ALONE)
    if name not in ALONE and result.cause is Cause.FINISHED:
        padded, exact = more_padding(tmp_path / "a", run), exact_training(tmp_path / "b", run, monkeypatch)
        assert_rounding(weights(tmp_path / "pack", run), plain_training(tmp_path / "stock", run), padded, exact)


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts what makes the host wait for a device."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seen: Counter[str] = Counter()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = function.overloadpacket.__name__
        if name in ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select"):
            self.seen[name] += 1
        return function(*args, **(kwargs or {}))


def test_no_run_makes_the_host_wait_inside_a_step(tmp_path: Path) -> None:
    worker = DPOTrainerWorker()
    runs = [config(name) for name in ("sigmoid", "ipo", "robust", "bco_pair", "aot", "discopop")]
    jobs = [Job(run, tmp_path / run.key, placement=Placement(together=len(runs))) for run in runs]
    pack = worker.empty_pack(jobs[0])
    pack.admit([worker.make(job) for job in jobs])
    pack.train_micro_batch()  # of which the first pass is held against the reference
    with Waits() as waits:
        pack.train_micro_batch()
    assert waits.seen == {}
