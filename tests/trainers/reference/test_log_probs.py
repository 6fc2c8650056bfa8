"""Reference log-probs: the same as TRL's own, computed once whatever a sweep varies."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel
from trl import DPOConfig, DPOTrainer
from trl.trainer.dpo_trainer import DataCollatorForPreference

import trainers.reference.log_probs
from studies.records import Cause, DataConfig, EvaluationConfig, RunConfig
from tests.trainers.pack_runs import float64
from trainers.data.pairs import load_pairs
from trainers.data.tables import write_pairs
from trainers.data.tokens import TokenIds
from trainers.dpo import DPOTrainerWorker
from trainers.interface import Job
from trainers.job_list import train_all
from trainers.reference.log_probs import (
    WORK_AT_ONCE,
    Base,
    compute_log_probs,
    is_fixed,
    model_digest,
    reference_log_probs,
)
from trainers.reference.store import Counting, Floats, ReferenceLogProbs, ReferenceStore, Scored, scored
from trainers.world.paths import model_path

STORIES = Path(__file__).resolve().parents[4] / "shared" / "models" / "stories260k"
STORY_PAIRS = STORIES.parents[1] / "data" / "stories_sentiment.jsonl"
PARAMETERS = 100_000


# ---- the numbers --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["embedded", "stories260k"])
def material(request: pytest.FixtureRequest) -> tuple[Path, DataConfig]:
    if request.param == "embedded":
        return model_path(), DataConfig(rows=48, eval_rows=16)
    if not STORIES.is_dir() or not STORY_PAIRS.is_file():
        pytest.skip("no model stories260k with its pairs in shared/ beside the project")
    return STORIES, DataConfig(path=str(STORY_PAIRS), rows=24, eval_rows=16)


def trl_trainer(folder: Path, material: tuple[Path, DataConfig], dtype: torch.dtype, **settings: Any) -> DPOTrainer:
    """Stock TRL on the material's training rows."""
    import datasets

    path, data = material
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return DPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(path, dtype=dtype),
        args=DPOConfig(
            output_dir=str(folder),
            per_device_train_batch_size=4,
            report_to="none",
            use_cpu=True,
            gradient_checkpointing=False,
            **{"bf16": False, **settings},
        ),
        train_dataset=datasets.Dataset.from_list([dict(row) for row in load_pairs(data, 0, tokenizer).train]),
        processing_class=tokenizer,
    )


def trl_log_probs(trainer: DPOTrainer) -> ReferenceLogProbs:
    """What TRL's own pass over the data gives, micro-batch by micro-batch."""
    columns = ["prompt_ids", "chosen_ids", "rejected_ids"]
    rows = trainer.train_dataset.select_columns(columns).to_list()
    batches = [trainer.data_collator(rows[i : i + 4]) for i in range(0, len(rows), 4)]
    found = [trainer.compute_ref_log_probs(trainer.ref_model, batch) for batch in batches]
    return ReferenceLogProbs(*(torch.cat(side).double().numpy() for side in zip(*found, strict=True)))


def column(trainer: DPOTrainer, name: str) -> Sequence[Sequence[int]]:
    """A column of the tokenised rows."""
    found: Sequence[Sequence[int]] = trainer.train_dataset[name][:]
    return found


def ours(trainer: DPOTrainer, store: ReferenceStore, used: Sequence[int] | None = None) -> ReferenceLogProbs:
    """What a run is given, where these rows (None: all) are used."""
    rows = trainer.train_dataset
    used = range(len(rows)) if used is None else used
    return reference_log_probs(rows, used, trainer.model, Base("model", PARAMETERS), trainer.args, store)


@pytest.mark.parametrize(
    "settings",
    [{}, {"ld_alpha": 0.3}, {"max_length": 24}, {"max_length": 20, "truncation_mode": "keep_end", "ld_alpha": 0.7}],
    ids=["plain", "ld_alpha", "keep_start", "keep_end and ld_alpha"],
)
def test_the_log_probs_are_those_that_trl_computes(
    tmp_path: Path, material: tuple[Path, DataConfig], monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    """In float64 the same, and in float32 as near to those as TRL's own are."""
    narrow = trl_trainer(tmp_path, material, torch.float32, **settings)
    found, theirs = ours(narrow, ReferenceStore(tmp_path / "float32")), trl_log_probs(narrow)
    with float64(monkeypatch):
        wide = trl_trainer(tmp_path, material, torch.float64, **settings)
        exact = trl_log_probs(wide)
        wide_found = ours(wide, ReferenceStore(tmp_path / "float64"))
    assert len(found.chosen) == len(theirs.chosen) > 8
    for a, b, c, d in zip(found, theirs, exact, wide_found, strict=True):
        np.testing.assert_allclose(d, c, rtol=0, atol=1e-9)
        assert np.abs(a - c).max() <= 3 * np.abs(b - c).max()


def test_of_a_large_model_only_the_parts_of_the_data_that_are_used_are_computed(
    tmp_path: Path, material: tuple[Path, DataConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And with the same bits as where all is used: what shares a pass does not depend on what was asked for."""
    trainer = trl_trainer(tmp_path, material, torch.float32)
    names = ("prompt_ids", "prompt_ids", "chosen_ids", "rejected_ids")
    lengths = [len(ids) for name in names for ids in column(trainer, name)]
    rows = len(trainer.train_dataset)
    monkeypatch.setitem(WORK_AT_ONCE, "cpu", 4.5 * PARAMETERS * sum(lengths) / rows)  # four pairs, a power of two
    whole = ours(trainer, ReferenceStore(tmp_path / "whole"))
    store = ReferenceStore(tmp_path / "parts")
    first = ours(trainer, store, used=[5, 9])
    known = [i for i in range(rows) if i // 4 in (1, 2)]
    for some, every in zip(first, whole, strict=True):
        assert [i for i in range(rows) if np.isfinite(some[i])] == known
        np.testing.assert_array_equal(some[known], every[known])
    for some, every in zip(ours(trainer, store), whole, strict=True):
        np.testing.assert_array_equal(some, every)


def test_the_log_probs_are_those_of_a_plain_softmax(
    material: tuple[Path, DataConfig], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One sequence at a time, in float64, through the model's own head."""
    path, data = material
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    texts = [f"{row['prompt']}{row['chosen']}" for row in load_pairs(data, 0, tokenizer).train[:12]]
    sequences = [Scored(tokenizer(text)["input_ids"], 3, 5) for text in texts]
    with float64(monkeypatch):
        found = compute_log_probs(model, sequences, batch_tokens=100)
        for sequence, (head, tail) in zip(sequences, found, strict=True):
            ids = torch.tensor(sequence.ids)
            with torch.no_grad():
                log_probs = model(ids[None]).logits[0, :-1].log_softmax(-1).gather(-1, ids[1:, None])[:, 0]
            assert head == pytest.approx(float(log_probs[2:7].sum()), abs=1e-9)
            assert tail == pytest.approx(float(log_probs[7:].sum()), abs=1e-9)


def test_autocast_is_that_of_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ours in bf16 are as far from exact arithmetic as TRL's in bf16: other batches may round anew, so that the two are
    not always near each other.
    """
    embedded = (model_path(), DataConfig(rows=48, eval_rows=16))
    trainer = trl_trainer(tmp_path, embedded, torch.float32, bf16=True)
    with float64(monkeypatch):
        exact = trl_log_probs(trl_trainer(tmp_path, embedded, torch.float64)).chosen
    theirs = np.abs(trl_log_probs(trainer).chosen - exact).mean()
    found = {}
    for trainer.args.bf16 in (True, False):
        found[trainer.args.bf16] = np.abs(ours(trainer, ReferenceStore(tmp_path / "reference")).chosen - exact).mean()
    assert theirs / 3 < found[True] < 3 * theirs
    assert found[False] < 0.01 * theirs


def test_computing_leaves_the_model_as_it_was() -> None:
    model = AutoModelForCausalLM.from_pretrained(model_path()).train()
    before, random = model_digest(model), torch.get_rng_state()
    compute_log_probs(model, [Scored([5, 6, 7], 1, 2)], batch_tokens=8)
    assert "forward" not in vars(model)
    assert model.training
    assert model_digest(model) == before
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None and p.requires_grad for p in model.parameters())


ids = st.lists(st.integers(0, 50), min_size=1, max_size=12)


@given(
    st.lists(st.integers(0, 50), max_size=12), ids, ids, st.integers(2, 16), st.sampled_from(["keep_start", "keep_end"])
)
def test_truncated_pairs_are_counted_as_trls_collator_and_loss_count_them(
    prompt: list[int], chosen: list[int], rejected: list[int], max_length: int, mode: str
) -> None:
    collator = DataCollatorForPreference(pad_token_id=0, max_length=max_length, truncation_mode=mode)
    batch = collator([{"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected}])
    counted = batch["completion_mask"][:, 1:].sum(1).tolist()
    for ld_alpha in (None, 0.5):
        pair = scored(TokenIds(prompt, chosen, rejected), Counting(max_length, mode, ld_alpha))
        for side, tokens, mask, sequence in zip(
            counted, batch["input_ids"], batch["attention_mask"], pair, strict=True
        ):
            assert sequence.ids == tokens[mask.bool()].tolist()
            assert len(sequence.ids[sequence.start :]) == side
            assert sequence.full == (side if ld_alpha is None else min(counted))


def test_a_batch_holds_no_more_tokens_than_it_may() -> None:
    model = AutoModelForCausalLM.from_pretrained(model_path())
    labels: list[torch.Tensor] = []
    model.register_forward_pre_hook(lambda _m, _a, kwargs: labels.append(kwargs["labels"]), with_kwargs=True)
    lengths = [3, 30, 5, 9, 31, 4, 90]
    compute_log_probs(model, [Scored([7] * n, 2, n - 2) for n in lengths], batch_tokens=64)
    assert [tuple(batch.shape) for batch in labels] == [(1, 90), (2, 31), (4, 9)]
    # The head's work on a GPU is that of the completions alone.
    assert [int((batch != -100).sum()) for batch in labels] == [88, 29 + 28, 7 + 3 + 2 + 1]


def test_a_model_is_known_by_its_weights_and_by_its_config() -> None:
    model = AutoModelForCausalLM.from_pretrained(model_path())
    digest = model_digest(model)
    assert model_digest(AutoModelForCausalLM.from_pretrained(model_path())) == digest
    model.config.pad_token_id, model.config._name_or_path = 3, "moved"
    assert model_digest(model) == digest
    model.config.rope_parameters = {**model.config.rope_parameters, "rope_theta": 5.0}
    assert model_digest(model) != digest
    other = AutoModelForCausalLM.from_pretrained(model_path())
    with torch.no_grad():
        next(other.parameters())[0, 0] += 1e-6
    assert model_digest(other) != digest
    assert model_digest(AutoModelForCausalLM.from_pretrained(model_path(), dtype=torch.bfloat16)) != digest


# ---- runs ---------------------------------------------------------------------------------------------------------

SETTINGS: dict[str, Any] = {
    "model_name_or_path": "embedded",
    "use_peft": True,
    "lora_r": 4,
    "lora_target_modules": "all-linear",
    "loss_type": ["sigmoid"],
    "beta": 0.3,
    "learning_rate": 1e-3,
    "max_steps": 2,
    "per_device_train_batch_size": 8,
}


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> DataConfig:
    """World pairs as two files, so that every block trains on all of the same rows."""
    tokenizer = AutoTokenizer.from_pretrained(model_path())
    pairs = load_pairs(DataConfig(rows=40, eval_rows=16), 0, tokenizer)
    train, evaluation = write_pairs(pairs, tmp_path_factory.mktemp("rows"))
    return DataConfig(path=str(train), eval_split=str(evaluation))


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Numbers of sequences that the real forward pass is called for."""
    counts: list[int] = []

    def counted(model: torch.nn.Module, sequences: Sequence[Scored], **options: Any) -> Floats:
        counts.append(len(sequences))
        return compute_log_probs(model, sequences, **options)

    monkeypatch.setattr(trainers.reference.log_probs, "compute_log_probs", counted)
    return counts


def run(
    worker: DPOTrainerWorker, study: Path, data: DataConfig, *, seed: int = 0, block: int = 0, **settings: Any
) -> None:
    config = RunConfig(
        study="s",
        variant="v",
        scenario="clean",
        trial=0,
        block=block,
        seed=seed,
        settings={**SETTINGS, **settings},
        knobs={},
        data=data,
        evaluation=EvaluationConfig(prompts=8, max_new_tokens=8),
    )
    (result,) = train_all(worker, [Job(config, study / config.key)])
    assert result.cause is Cause.FINISHED, result.message


def test_nothing_that_a_sweep_varies_costs_another_reference_pass(
    tmp_path: Path, rows: DataConfig, computed: list[int]
) -> None:
    worker = DPOTrainerWorker()
    run(worker, tmp_path, rows)
    assert len(computed) == 1
    first = computed.copy()
    for settings in (
        {"beta": 1.0},
        {"loss_type": ["sigmoid", "ipo"], "loss_weights": [0.5, 0.5]},
        {"learning_rate": 1e-4, "lora_r": 8, "per_device_train_batch_size": 4},
        {"precompute_ref_log_probs": True},
    ):
        run(worker, tmp_path, rows, **settings)
    run(worker, tmp_path, rows, seed=1, block=3)
    run(worker, tmp_path, rows.model_copy(update={"label_flip": 0.5}))
    run(worker, tmp_path, rows.model_copy(update={"rows": 20}))
    run(DPOTrainerWorker(), tmp_path, rows, beta=0.7)
    run(worker, tmp_path, rows, use_peft=False)
    run(worker, tmp_path, rows, use_peft=False, precompute_ref_log_probs=True)
    assert computed == first


def test_ld_alpha_and_precision_cost_another_pass(tmp_path: Path, rows: DataConfig, computed: list[int]) -> None:
    worker = DPOTrainerWorker()
    run(worker, tmp_path, rows)
    run(worker, tmp_path, rows, ld_alpha=0.3)
    run(worker, tmp_path, rows, bf16=True)
    whole, longer, bf16 = computed
    assert 0 < longer < whole == bf16


def test_a_reference_that_moves_is_computed_as_training_goes(
    tmp_path: Path, rows: DataConfig, computed: list[int]
) -> None:
    run(DPOTrainerWorker(), tmp_path, rows, use_peft=False, sync_ref_model=True, ref_model_sync_steps=1)
    assert computed == []


@pytest.mark.parametrize(
    ("config", "settings", "adapter", "fixed"),
    [
        ({}, {}, True, True),  # GPT-2's dropout of 0.1 is turned off by TRL
        ({}, {"disable_dropout": False}, True, False),
        ({}, {"disable_dropout": False}, False, True),  # a reference of its own, in evaluation mode
        ({}, {"disable_dropout": False, "precompute_ref_log_probs": True}, True, True),
        ({"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}, {"disable_dropout": False}, True, True),
        ({}, {"neftune_noise_alpha": 5.0}, True, False),
        ({}, {"sync_ref_model": True}, False, False),
    ],
)
def test_log_probs_that_stock_training_draws_anew_are_not_fixed(
    tmp_path: Path, config: dict[str, float], settings: dict[str, Any], adapter: bool, fixed: bool
) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=8, n_embd=8, n_layer=1, n_head=1, n_positions=8, **config))
    args = DPOConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True, report_to="none", **settings)
    assert is_fixed(model, args, adapter=adapter) is fixed


def test_dropout_that_trl_cannot_turn_off_is_seen(tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(model_path(), attention_dropout=0.1)
    args = DPOConfig(output_dir=str(tmp_path), bf16=False, use_cpu=True, report_to="none")
    assert not is_fixed(model, args, adapter=True)


def test_a_pass_that_does_not_fit_is_halved_with_the_same_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    """A GPU takes eight times as many tokens at once as a CPU, whatever else lies on it."""
    assert trainers.reference.log_probs.LEAST_BATCH_TOKENS["cuda"] == 8 * 2048
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=16, n_layer=1, n_head=2, vocab_size=32, n_positions=32)).double().eval()
    sequences = [Scored([1 + i % 30, 2, 3, 4 + i % 5][: 3 + i % 2], 1, 2) for i in range(11)]
    expected = compute_log_probs(model, sequences, batch_tokens=64)
    tried: list[int] = []
    own = trainers.reference.log_probs._log_probs

    def scarce(base: Any, batch: Sequence[Scored], device: torch.device) -> Floats:
        tried.append(len(batch))
        if len(batch) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return own(base, batch, device)

    monkeypatch.setattr(trainers.reference.log_probs, "_log_probs", scarce)
    np.testing.assert_allclose(compute_log_probs(model, sequences, batch_tokens=64), expected, rtol=1e-6)
    assert max(tried) == len(sequences)
