"""Tokens a second while policies of a pack are sampled and pairs scored, as evaluations do and with larger batches."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, Final

import torch

from tests.benchmarks.gpu_stages.figures import Figures
from tests.benchmarks.gpu_stages.inputs import (
    Size,
    device,
    gpu_settings,
    peak_mib,
    reset_peak,
    runs,
    wait,
    with_cudnn,
)
from trainers.data.draws import SAMPLING_SEED
from trainers.dpo import DPOTrainerWorker
from trainers.evaluation.metrics import token_entropy_and_kl
from trainers.evaluation.pair_scores import pair_log_probs
from trainers.evaluation.policies import Policies, packed_policies
from trainers.evaluation.sampling import NonFinite, sample
from trainers.interface import Job, Placement
from trainers.pack.member import Member
from trainers.pack.pack import Pack

_BATCH: Final = 64
_MANY: Final = 8
"""As many times the prompts, all rows at once: what a batch of a GPU's size gains."""


def measure(figures: Figures, size: Size, work: Path) -> None:
    """See the module."""
    configs = runs(size, work, size.pack, 10, prompts=size.prompts, **gpu_settings())
    place = Placement(together=size.pack, checkpointing=False)
    jobs = [Job(config, work / "sampled" / config.key, placement=place, pause_at=4) for config in configs]
    worker = DPOTrainerWorker()
    members = [worker.make(job) for job in jobs]
    pack = worker.empty_pack(jobs[0])
    pack.admit(members)
    prompts = list(members[0].numbers.tokens.prompts)
    _sample(figures, "warm up", pack, prompts, min(8, size.new_tokens), _BATCH)
    _sample(figures, "sampled", pack, prompts, size.new_tokens, _BATCH)
    with with_cudnn():
        _sample(figures, "sampled with cuDNN", pack, prompts, size.new_tokens, _BATCH)
    many = prompts * _MANY
    _sample(figures, "sampled at once", pack, many, size.new_tokens, len(many) * len(members))
    with figures.part("scored"):
        _score(figures, pack, members)
    with figures.part("evaluated"):
        wait()
        began = time.perf_counter()
        pack.evaluate(list(range(len(members))))
        wait()
        about = {"prompts": size.prompts, "new_tokens": 2, "pairs": len(members[0].numbers.tokens.held_out)}
        figures.note("evaluated", policies=len(members), seconds=time.perf_counter() - began, **about)


def _autocast(pack: Pack) -> AbstractContextManager[Any]:
    """As the pack evaluates."""
    return torch.autocast(device(), torch.bfloat16, enabled=bool(pack.members[0].run.args.bf16))


@contextmanager
def _rows_read(policies: Policies) -> Iterator[list[int]]:
    """The rows of each forward pass that is made inside."""
    seen: list[int] = []

    def look(_: Any, args: tuple[Any, ...], named: dict[str, Any]) -> None:
        seen.append(len(named["input_ids"] if "input_ids" in named else args[0]))

    handle = policies.model.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield seen
    finally:
        handle.remove()


def _sample(
    figures: Figures, name: str, pack: Pack, prompts: Sequence[Sequence[int]], new_tokens: int, batch_size: int
) -> None:
    """Every policy writes so many tokens behind each prompt, the reference reading after them."""
    policies = packed_policies(pack.adapters)
    with figures.part(name):
        reset_peak()
        wait()
        began = time.perf_counter()
        with _autocast(pack), _rows_read(policies) as rows:
            drawn = sample(
                policies,
                [prompts] * policies.count,
                end_ids=frozenset({1}),
                max_new_tokens=new_tokens,
                seed=SAMPLING_SEED,
                batch_size=batch_size,
                per_token=token_entropy_and_kl,
            )
        wait()
        seconds = time.perf_counter() - began
        tokens = sum(len(c.ids) for own in drawn if not isinstance(own, NonFinite) for c in own.completions)
        figures.note(
            name,
            policies=policies.count,
            prompts=len(prompts),
            new_tokens=new_tokens,
            tokens_a_second=tokens / seconds,
            seconds=seconds,
            rows_at_once=max(rows, default=0),
            passes=len(rows),
            pass_ms=1e3 * seconds / max(1, len(rows)),
            peak_mib=peak_mib(),
        )


def _score(figures: Figures, pack: Pack, members: Sequence[Member]) -> None:
    """Held-out pairs of all policies, the second time."""
    pairs = members[0].numbers.tokens.held_out
    policies, seconds = packed_policies(pack.adapters), 0.0
    for _ in range(2):
        reset_peak()
        wait()
        began = time.perf_counter()
        with _autocast(pack):
            pair_log_probs(policies, [pairs] * policies.count, _BATCH)
        wait()
        seconds = time.perf_counter() - began
    tokens = policies.count * sum(len(pair.chosen) + len(pair.rejected) for pair in pairs)
    figures.note(
        "scored",
        policies=policies.count,
        pairs=len(pairs),
        answer_tokens_a_second=tokens / seconds,
        seconds=seconds,
        peak_mib=peak_mib(),
    )
