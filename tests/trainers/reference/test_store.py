"""The store of reference log-probs: which sequences share an entry, and what happens on a shared disk that breaks."""

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

import numpy as np
import pytest

import trainers.reference.store
from trainers.data.tokens import TokenIds
from trainers.reference.store import MOST_SHARDS, BaseKey, Counting, Floats, ReferenceLogProbs, ReferenceStore, Scored

BASE = BaseKey("model", "sdpa", "cpu")
FORK = multiprocessing.get_context("fork")  # the children only read and write files; importing torch again takes long
PAIRS = tuple(TokenIds([i, 2, 3], [4, 5, i], [6, 7, 8, 9]) for i in range(40))


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
    monkeypatch.setattr(trainers.reference.store, "SHARD_SEQUENCES", 30)
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
