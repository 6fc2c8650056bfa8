"""Reference log-probs: the same as TRL's own, computed once whatever a sweep varies, and safe on a shared disk."""

from __future__ import annotations

import logging
import multiprocessing
import os
import resource
import signal
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from multiprocessing.synchronize import Barrier
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

import trainers.reference
from studies.records import Cause, DataConfig, EvaluationConfig, RunConfig
from trainers.data import TokenIds, load_pairs, write_pairs
from trainers.desk import train_all
from trainers.dpo import DPOTrainerWorker
from trainers.interface import Job
from trainers.reference import (
    MOST_SHARDS,
    BaseKey,
    Counting,
    Floats,
    ReferenceLogProbs,
    ReferenceStore,
    Scored,
    compute_log_probs,
    is_fixed,
    model_digest,
    scored,
    with_reference_log_probs,
)
from trainers.world.paths import model_path

STORIES = Path(__file__).resolve().parents[3] / "shared" / "models" / "stories260k"
STORY_PAIRS = STORIES.parents[1] / "data" / "stories_sentiment.jsonl"
BASE = BaseKey("model", "sdpa", "cpu")
FORK = multiprocessing.get_context("fork")  # the children only read and write files; importing torch again takes long
PAIRS = tuple(TokenIds([i, 2, 3], [4, 5, i], [6, 7, 8, 9]) for i in range(40))


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


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(
    "settings",
    [{}, {"ld_alpha": 0.3}, {"max_length": 24}, {"max_length": 20, "truncation_mode": "keep_end", "ld_alpha": 0.7}],
    ids=["plain", "ld_alpha", "keep_start", "keep_end and ld_alpha"],
)
def test_the_log_probs_are_those_that_trl_computes(
    tmp_path: Path, material: tuple[Path, DataConfig], dtype: torch.dtype, settings: dict[str, Any]
) -> None:
    """To 1e-4 nats in float64 too: TRL's head works in float32 whatever the model is in."""
    trainer = trl_trainer(tmp_path, material, dtype, **settings)
    theirs = trl_log_probs(trainer)
    store = ReferenceStore(tmp_path / "reference")
    rows = with_reference_log_probs(trainer.train_dataset, trainer.model, "model", trainer.args, store)
    assert len(rows) == len(theirs.chosen) > 8
    np.testing.assert_allclose(rows["ref_chosen_logps"][:], theirs.chosen, rtol=0, atol=1e-4)
    np.testing.assert_allclose(rows["ref_rejected_logps"][:], theirs.rejected, rtol=0, atol=1e-4)


def test_the_log_probs_are_those_of_a_plain_softmax(material: tuple[Path, DataConfig]) -> None:
    """One sequence at a time, in float64, through the model's own head."""
    path, data = material
    tokenizer = AutoTokenizer.from_pretrained(path)
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64)
    texts = [f"{row['prompt']}{row['chosen']}" for row in load_pairs(data, 0, tokenizer).train[:12]]
    sequences = [Scored(tokenizer(text)["input_ids"], 3, 5) for text in texts]
    found = compute_log_probs(model, sequences, batch_tokens=100)
    for sequence, (head, tail) in zip(sequences, found, strict=True):
        ids = torch.tensor(sequence.ids)
        with torch.no_grad():
            log_probs = model(ids[None]).logits[0, :-1].log_softmax(-1).gather(-1, ids[1:, None])[:, 0]
        assert head == pytest.approx(float(log_probs[2:7].sum()), abs=5e-5)
        assert tail == pytest.approx(float(log_probs[7:].sum()), abs=5e-5)


def test_autocast_is_that_of_training(tmp_path: Path) -> None:
    trainer = trl_trainer(tmp_path, (model_path(), DataConfig(rows=48, eval_rows=16)), torch.float32, bf16=True)
    theirs = trl_log_probs(trainer)
    found = {}
    for trainer.args.bf16 in (True, False):
        store = ReferenceStore(tmp_path / "reference")
        rows = with_reference_log_probs(trainer.train_dataset, trainer.model, "model", trainer.args, store)
        found[trainer.args.bf16] = np.abs(np.array(rows["ref_chosen_logps"][:]) - theirs.chosen).max()
    assert found[True] < 0.1 * found[False]


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


# ---- which entries are shared -------------------------------------------------------------------------------------


class Counter:
    """Stands in for the forward pass: sums that name their sequence; remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Scored] = []

    def __call__(self, sequences: Sequence[Scored]) -> Floats:
        self.asked += sequences
        return np.array([sums_of(sequence) for sequence in sequences])


def sums_of(sequence: Scored) -> tuple[float, float]:
    kept = sequence.ids[sequence.start :]
    return -float(sum(kept[: sequence.full])) - 0.125, -float(sum(kept[sequence.full :]))


def expected(pairs: Sequence[TokenIds], alpha: float = 1.0) -> ReferenceLogProbs:
    """What Counter makes of pairs whose chosen side has three tokens and whose rejected side has four."""
    rejected = [-0.125 - sum(p.rejected[:3]) - alpha * p.rejected[3] for p in pairs]
    return ReferenceLogProbs(np.array([-0.125 - sum(p.chosen) for p in pairs]), np.array(rejected))


def assert_log_probs(found: ReferenceLogProbs, wanted: ReferenceLogProbs) -> None:
    np.testing.assert_allclose(found.chosen, wanted.chosen, rtol=1e-14)
    np.testing.assert_allclose(found.rejected, wanted.rejected, rtol=1e-14)


def test_order_flips_subsamples_and_repetitions_need_nothing_new(tmp_path: Path) -> None:
    counter = Counter()
    first = ReferenceStore(tmp_path).log_probs(BASE, PAIRS, Counting(), counter)
    assert_log_probs(first, expected(PAIRS))
    assert len(counter.asked) == 2 * len(PAIRS)
    flipped = [TokenIds(p.prompt, p.rejected, p.chosen) for p in reversed(PAIRS[::3])]
    again = ReferenceStore(tmp_path).log_probs(BASE, flipped * 2, Counting(), counter)
    assert_log_probs(ReferenceLogProbs(again.rejected, again.chosen), expected(list(reversed(PAIRS[::3])) * 2))
    assert len(counter.asked) == 2 * len(PAIRS)


def test_one_pass_over_the_longer_answers_serves_every_ld_alpha(tmp_path: Path) -> None:
    counter, store = Counter(), ReferenceStore(tmp_path)
    store.log_probs(BASE, PAIRS, Counting(), counter)
    for alpha in (0.0, 0.3, 0.9):
        found = store.log_probs(BASE, PAIRS, Counting(ld_alpha=alpha), counter)
        assert_log_probs(found, expected(PAIRS, alpha))
    assert [s.ids[s.start :] for s in counter.asked[2 * len(PAIRS) :]] == [[6, 7, 8, 9]] * len(PAIRS)


@pytest.mark.parametrize(
    "other",
    [
        BaseKey("another", "sdpa", "cpu"),
        BaseKey("model", "eager", "cpu"),
        BaseKey("model", "sdpa", "cuda"),
        BaseKey("model", "sdpa", "cpu", autocast="bf16"),
        BaseKey("model", "sdpa", "cpu", tf32=True),
    ],
)
def test_another_model_attention_device_or_precision_shares_nothing(tmp_path: Path, other: BaseKey) -> None:
    counter, store = Counter(), ReferenceStore(tmp_path)
    store.log_probs(BASE, PAIRS, Counting(), counter)
    store.log_probs(other, PAIRS, Counting(), counter)
    assert len(counter.asked) == 4 * len(PAIRS)


def test_a_prompt_that_ends_elsewhere_is_another_sequence(tmp_path: Path) -> None:
    counter, store = Counter(), ReferenceStore(tmp_path)
    store.log_probs(BASE, [TokenIds([1, 2], [3, 4], [5])], Counting(), counter)
    found = store.log_probs(BASE, [TokenIds([1], [2, 3, 4], [5])], Counting(), counter)
    assert found.chosen == pytest.approx([-9.125])
    for prompt, chosen, whole in (([1], [2, 3, 4], -5.125 - 0.25 * 4), ([1, 2], [3, 4], -7.125)):
        found = store.log_probs(BASE, [TokenIds(prompt, chosen, [5, 6])], Counting(ld_alpha=0.25), counter)
        assert found.chosen == pytest.approx([whole])  # two tokens count in full in both


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

    monkeypatch.setattr(trainers.reference, "compute_log_probs", counted)
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


# ---- a folder that others use, and that breaks --------------------------------------------------------------------


def shards(folder: Path) -> list[Path]:
    return sorted(folder.glob("*/*.safetensors"))


def compute_in_a_process(folder: Path, log: Path, barrier: Barrier) -> None:
    counter = Counter()

    def slowly(sequences: Sequence[Scored]) -> Floats:
        time.sleep(0.3)
        return counter(sequences)

    barrier.wait()
    found = ReferenceStore(folder).log_probs(BASE, PAIRS, Counting(), slowly)
    assert_log_probs(found, expected(PAIRS))
    log.write_text(str(len(counter.asked)))


def test_processes_that_start_together_compute_each_entry_once(tmp_path: Path) -> None:
    barrier = FORK.Barrier(3)
    logs = [tmp_path / f"{i}.txt" for i in range(3)]
    processes = [FORK.Process(target=compute_in_a_process, args=(tmp_path / "store", log, barrier)) for log in logs]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert sorted(int(log.read_text()) for log in logs) == [0, 0, 2 * len(PAIRS)]


def die_while_writing(folder: Path) -> None:
    ReferenceStore(folder).log_probs(BASE, PAIRS[:10], Counting(), Counter())
    os.fsync = lambda _descriptor: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment]
    ReferenceStore(folder).log_probs(BASE, PAIRS, Counting(), Counter())


def test_a_worker_killed_while_it_writes_leaves_a_store_that_works(tmp_path: Path) -> None:
    process = FORK.Process(target=die_while_writing, args=(tmp_path,))
    process.start()
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert len(list(tmp_path.glob("*/.*.tmp"))) == 1
    counter = Counter()
    assert_log_probs(ReferenceStore(tmp_path).log_probs(BASE, PAIRS, Counting(), counter), expected(PAIRS))
    assert len(counter.asked) == 2 * (len(PAIRS) - 10)
    assert not list(tmp_path.glob("*/.*.tmp"))


def break_a_byte(content: bytes, place: float) -> bytes:
    i = int(place * (len(content) - 1))
    return content[:i] + bytes([content[i] ^ 1]) + content[i + 1 :]


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: break_a_byte(content, 0.0),
        lambda content: break_a_byte(content, 0.5),
        lambda content: break_a_byte(content, 1.0),
        lambda content: content[:-9],
        lambda content: b"",
    ],
    ids=["first byte", "middle byte", "last byte", "cut", "empty"],
)
def test_a_damaged_shard_is_named_removed_and_computed_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: Callable[[bytes], bytes]
) -> None:
    ReferenceStore(tmp_path).log_probs(BASE, PAIRS, Counting(), Counter())
    (shard,) = shards(tmp_path)
    whole = shard.read_bytes()
    shard.write_bytes(damage(whole))
    counter = Counter()
    assert_log_probs(ReferenceStore(tmp_path).log_probs(BASE, PAIRS, Counting(), counter), expected(PAIRS))
    assert len(counter.asked) == 2 * len(PAIRS)
    assert len([record for record in caplog.records if str(shard) in record.getMessage()]) == 1
    assert [path.read_bytes() for path in shards(tmp_path)] == [whole]
    shard.write_bytes(damage(whole))
    ReferenceStore(tmp_path).log_probs(BASE, PAIRS[:3], Counting(), counter)
    assert shard not in shards(tmp_path)
    assert len(shards(tmp_path)) == 1


def test_many_shards_become_one_and_an_earlier_reader_goes_on(tmp_path: Path) -> None:
    early = ReferenceStore(tmp_path)
    early.log_probs(BASE, PAIRS[:1], Counting(), Counter())
    for i in range(1, MOST_SHARDS + 2):
        assert len(shards(tmp_path)) == min(i, MOST_SHARDS) or i > MOST_SHARDS
        ReferenceStore(tmp_path).log_probs(BASE, PAIRS[i : i + 1], Counting(), Counter())
    assert len(shards(tmp_path)) <= 2
    counter = Counter()
    for store in (early, ReferenceStore(tmp_path)):
        found = store.log_probs(BASE, PAIRS[: MOST_SHARDS + 2], Counting(), counter)
        assert_log_probs(found, expected(PAIRS[: MOST_SHARDS + 2]))
    assert counter.asked == []


def test_a_long_pass_is_kept_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trainers.reference, "SHARD_SEQUENCES", 30)
    calls: list[int] = []

    def fail_at_the_third(sequences: Sequence[Scored]) -> Floats:
        calls.append(len(sequences))
        if len(calls) == 3:
            raise KeyboardInterrupt
        return Counter()(sequences)

    with pytest.raises(KeyboardInterrupt):
        ReferenceStore(tmp_path).log_probs(BASE, PAIRS, Counting(), fail_at_the_third)
    counter = Counter()
    ReferenceStore(tmp_path).log_probs(BASE, PAIRS, Counting(), counter)
    assert len(counter.asked) == 2 * len(PAIRS) - 60


def test_a_shard_that_may_not_be_read_hides_no_other(tmp_path: Path) -> None:
    ReferenceStore(tmp_path).log_probs(BASE, PAIRS, Counting(), Counter())
    (tmp_path / BASE.folder_name() / "0.safetensors").mkdir()
    counter = Counter()
    ReferenceStore(tmp_path).log_probs(BASE, PAIRS, Counting(), counter)
    assert counter.asked == []


def test_long_sequences_come_first(tmp_path: Path) -> None:
    """So that what does not fit the memory fails at once."""
    counter = Counter()
    pairs = [TokenIds([1] * (i % 5), [2] * (1 + i % 7), [3]) for i in range(20)]
    ReferenceStore(tmp_path).log_probs(BASE, pairs, Counting(), counter)
    lengths = [len(sequence.ids) for sequence in counter.asked]
    assert lengths == sorted(lengths, reverse=True)


def test_what_is_not_finite_is_given_but_not_kept(tmp_path: Path) -> None:
    def half_broken(sequences: Sequence[Scored]) -> Floats:
        return np.array([(np.nan, 0.0) if s.ids[0] % 2 else sums_of(s) for s in sequences])

    found = ReferenceStore(tmp_path).log_probs(BASE, PAIRS, Counting(), half_broken)
    assert np.isnan(found.chosen).tolist() == [bool(i % 2) for i in range(len(PAIRS))]
    counter = Counter()
    assert_log_probs(ReferenceStore(tmp_path).log_probs(BASE, PAIRS, Counting(), counter), expected(PAIRS))
    assert len(counter.asked) == len(PAIRS)


@contextmanager
def as_an_ordinary_user() -> Iterator[None]:
    """Root may write anywhere: be someone who may not."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_folder_that_may_only_be_read_costs_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with tempfile.TemporaryDirectory() as name:
        ReferenceStore(Path(name)).log_probs(BASE, PAIRS[:10], Counting(), Counter())
        for folder in (Path(name), *Path(name).iterdir()):
            folder.chmod(0o555)
        store, counter = ReferenceStore(Path(name)), Counter()
        try:
            with as_an_ordinary_user():
                for pairs in (PAIRS[:30], PAIRS, PAIRS):
                    assert_log_probs(store.log_probs(BASE, pairs, Counting(), counter), expected(pairs))
        finally:
            for folder in (Path(name), *Path(name).iterdir()):
                folder.chmod(0o755)
    assert len(counter.asked) == 2 * (len(PAIRS) - 10)
    assert len([r for r in caplog.records if r.levelno == logging.WARNING and name in r.getMessage()]) == 1


def test_a_folder_that_cannot_be_made_costs_one_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").write_text("")
    store, counter = ReferenceStore(tmp_path / "file" / "reference"), Counter()
    for pairs in (PAIRS[:30], PAIRS, PAIRS):
        assert_log_probs(store.log_probs(BASE, pairs, Counting(), counter), expected(pairs))
    assert len(counter.asked) == 2 * len(PAIRS)
    assert len(caplog.records) == 1


def test_a_full_disk_costs_one_warning_and_leaves_no_debris(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    store, counter = ReferenceStore(tmp_path), Counter()
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))  # a write beyond it fails as on a full disk
    try:
        for _ in range(2):
            assert_log_probs(store.log_probs(BASE, PAIRS, Counting(), counter), expected(PAIRS))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert len(counter.asked) == 2 * len(PAIRS)
    assert len(caplog.records) == 1
    assert {path.name for path in tmp_path.glob("*/*")} == {"lock"}


def test_a_file_system_without_locks_is_shared_all_the_same(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / BASE.folder_name() / "lock").mkdir(parents=True)
    ReferenceStore(tmp_path).log_probs(BASE, PAIRS, Counting(), Counter())
    counter = Counter()
    assert_log_probs(ReferenceStore(tmp_path).log_probs(BASE, PAIRS, Counting(), counter), expected(PAIRS))
    assert counter.asked == []
    assert len(caplog.records) == 1
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        ReferenceStore(tmp_path).log_probs(BASE, [TokenIds([1], [2], [i]) for i in range(9)], Counting(), counter)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert not list(tmp_path.glob("*/.*.tmp"))
