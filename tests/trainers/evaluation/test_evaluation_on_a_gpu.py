"""What only a GPU can show of evaluations and passes: their numbers there, who waits, and what does not fit.
`python -m tests.benchmarks.on_gpu --stages tests` runs them.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.trainers.pack_runs import config
from trainers.dpo import DPOTrainerWorker
from trainers.evaluation import sizes
from trainers.evaluation.metrics import token_entropy_and_kl
from trainers.evaluation.pair_scores import pair_log_probs
from trainers.evaluation.policies import Policies, packed_policies
from trainers.evaluation.sampling import NonFinite, Samples, sample
from trainers.interface import Job, Placement
from trainers.pack.pack import Pack

pytestmark = pytest.mark.gpu
LOSSES = ("sigmoid", "ipo", "robust", "bco_pair", "aot")


@pytest.fixture(params=[False, True], ids=["float32", "bf16"])
def pack(request: pytest.FixtureRequest, tmp_path: Path) -> Pack:
    """A pack that has trained a few steps."""
    worker = DPOTrainerWorker()
    runs = [config(name, bf16=request.param, gradient_checkpointing=False) for name in LOSSES]
    jobs = [Job(run, tmp_path / run.key, placement=Placement(together=len(runs))) for run in runs]
    found = worker.empty_pack(jobs[0])
    found.admit([worker.make(job) for job in jobs])
    for _ in range(4):
        found.train_micro_batch()
    return found


@contextmanager
def measured(pack: Pack) -> Iterator[Policies]:
    with pack._engine.autocast(pack.members[0].precision):
        yield packed_policies(pack.adapters)


def drawn(policies: Policies, prompts: list[Any]) -> tuple[Samples | NonFinite, ...]:
    options: dict[str, Any] = {"end_ids": [1], "max_new_tokens": 32, "seed": 3, "batch_size": 64}
    return sample(policies, [prompts] * policies.count, per_token=token_entropy_and_kl, **options)


def test_a_pass_of_a_pack_waits_for_nothing(pack: Pack) -> None:
    torch.cuda.set_sync_debug_mode("error")
    try:
        pack.train_micro_batch()
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_pairs_have_the_same_log_probs_in_the_layout_and_padded(pack: Pack) -> None:
    own = pack.members[0].numbers.tokens.held_out
    with measured(pack) as policies:
        ours = pair_log_probs(policies, [own] * policies.count, 64)
        theirs = pair_log_probs(replace(policies, packed=False), [own] * policies.count, 64)
    for found, known in zip(ours, theirs, strict=True):
        assert not isinstance(found, NonFinite)
        assert not isinstance(known, NonFinite)
        np.testing.assert_allclose(found.chosen, known.chosen, rtol=2e-2 if pack.members[0].precision else 1e-4)


def test_an_evaluation_that_does_not_fit_is_halved_with_the_same_samples(
    pack: Pack, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is told of more memory than it may take."""
    if pack.members[0].precision is not None:
        pytest.skip("in half precision a batch of another shape draws another token now and then")
    prompts = list(pack.members[0].numbers.tokens.prompts) * 64
    with measured(pack) as policies:
        torch.cuda.reset_peak_memory_stats()
        expected, peak = drawn(policies, prompts), torch.cuda.max_memory_allocated()
        torch.cuda.empty_cache()
        monkeypatch.setattr(sizes, "usable_bytes", lambda _: 2**50)
        held, total = torch.cuda.memory_allocated(), torch.cuda.mem_get_info()[1]
        torch.cuda.set_per_process_memory_fraction((held + (peak - held) / 3) / total)
        try:
            found = drawn(policies, prompts)
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
    for ours, theirs in zip(found, expected, strict=True):
        assert isinstance(ours, Samples)
        assert isinstance(theirs, Samples)
        same = sum(a.ids == b.ids for a, b in zip(ours.completions, theirs.completions, strict=True))
        assert same >= 0.99 * len(prompts)
