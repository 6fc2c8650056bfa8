"""A pack's work on a GPU that computes nothing: no two tensors meet on different devices, and nobody waits for it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainers.fake_gpu import CUDA, NEEDS_NO_DRIVER, Waits, fake_gpu, on_fake_gpu
from tests.trainers.pack_runs import config
from trainers.dpo import DPOTrainerWorker
from trainers.evaluation import sizes
from trainers.evaluation.metrics import token_entropy_and_kl
from trainers.evaluation.pair_scores import pair_log_probs
from trainers.evaluation.policies import packed_policies
from trainers.evaluation.sampling import sample
from trainers.interface import Job, Placement
from trainers.multi_lora.flat import Lora
from trainers.pack.engine import Engine, Update
from trainers.pack.member import Member
from trainers.pack.passes import count_and_step, forward_backward

LOSSES = ("sigmoid", "ipo", "robust", "bco_pair", "aot", "discopop")
PRECISION = pytest.mark.parametrize("precision", [torch.bfloat16, None], ids=["bf16", "float32"])


@pytest.fixture(scope="module")
def members(tmp_path_factory: pytest.TempPathFactory) -> list[Member]:
    """Runs made ready on the CPU, with the losses of TRL."""
    folder, worker = tmp_path_factory.mktemp("members"), DPOTrainerWorker()
    runs = [config(name) for name in LOSSES]
    found = [worker.make(Job(run, folder / run.key, placement=Placement(together=len(runs)))) for run in runs]
    for member in found:
        member.run.loss._head.accelerator.device = CUDA
    return found


@pytest.fixture
def engine(members: list[Member], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Engine]:
    """A pack of them on the GPU; `backward` does nothing."""
    base = DPOTrainerWorker().empty_pack(members[0].job)._base
    monkeypatch.setattr(torch.autograd, "backward", lambda *_: None)
    monkeypatch.setattr(sizes, "usable_bytes", lambda _: 2**30)
    with fake_gpu(monkeypatch) as mode:
        engine = Engine(on_fake_gpu(mode, base), checkpointing=False)
        engine.add([there(member.run.adapter) for member in members])
        yield engine


def there(adapter: Any) -> dict[str, Lora]:
    """The adapter on the GPU."""
    return {
        name: Lora(torch.empty(lora.a.shape, device=CUDA), torch.empty(lora.b.shape, device=CUDA), lora.scaling)
        for name, lora in adapter.items()
    }


def waits_of(work: Callable[[], Any]) -> list[str]:
    """Where work waits for the GPU."""
    with Waits() as waits:
        work()
    return waits.places


def reset(members: list[Member]) -> None:
    """Runs at their beginning, their sums on the GPU."""
    for member in members:
        member.step = member.micro = 0
        member.begun = True
        member.sums, member.norm = torch.zeros(3, device=CUDA), torch.zeros((), device=CUDA)
        member.sound = torch.ones((), dtype=torch.bool, device=CUDA)


@NEEDS_NO_DRIVER
@PRECISION
def test_a_pass_with_its_steps_waits_for_nothing(
    engine: Engine, members: list[Member], monkeypatch: pytest.MonkeyPatch, precision: torch.dtype | None
) -> None:
    monkeypatch.setattr(Member, "precision", property(lambda _: precision))
    reset(members)
    kernels: list[bool] = []
    attend = torch.nn.functional.scaled_dot_product_attention

    def noted(*args: Any, **options: Any) -> Tensor:
        kernels.append(bool(torch.backends.cuda.cudnn_sdp_enabled()))  # type: ignore[no-untyped-call]
        return attend(*args, **options)

    monkeypatch.setattr(torch.nn.functional, "scaled_dot_product_attention", noted)
    assert waits_of(lambda: count_and_step(engine, members, forward_backward(engine, members))) == []
    assert {member.step for member in members} == {1}
    assert all(member.sums.device.type == member.norm.device.type == "cuda" for member in members)
    assert kernels
    assert not any(kernels)  # cuDNN's is left out


def test_a_step_of_some_runs_waits_for_nothing(engine: Engine, members: list[Member]) -> None:
    sound = torch.ones(len(members), dtype=torch.bool, device=CUDA)
    updates = [Update(member.run.args, 1e-3) if i % 2 else None for i, member in enumerate(members)]
    assert waits_of(lambda: engine.step(updates, sound)) == []


def test_runs_come_and_go_on_the_gpu(engine: Engine, members: list[Member]) -> None:
    """With ranks that tensor cores read, whatever the runs ask for."""
    assert engine.adapters.geometry.rank == 8
    assert all(max(lora.a.shape[0] for lora in member.run.adapter.values()) == 4 for member in members)
    engine.keep([0, 2])
    engine.restore(1, engine.moments(0), 3)
    engine.add([there(members[1].run.adapter)])
    assert engine.adapters.weights.shape[0] == 3
    assert engine.adapters.weights.device.type == engine.adapters.gradients.device.type == "cuda"


@NEEDS_NO_DRIVER
@PRECISION
def test_pairs_are_scored_with_one_wait_a_batch(
    engine: Engine, members: list[Member], precision: torch.dtype | None
) -> None:
    """For the numbers themselves."""
    own = members[0].numbers.tokens.held_out

    def score() -> None:
        with engine.autocast(precision):
            pair_log_probs(packed_policies(engine.adapters), [own] * len(members), 64)

    places = waits_of(score)
    assert len(places) == 1
    assert "pair_scores.py" in places[0]


@pytest.mark.slow
@PRECISION
def test_samples_wait_once_in_a_few_steps(engine: Engine, members: list[Member], precision: torch.dtype | None) -> None:
    prompts = list(members[0].numbers.tokens.prompts)

    def draw(steps: int) -> None:
        with engine.autocast(precision):
            sample(
                packed_policies(engine.adapters),
                [prompts] * len(members),
                end_ids=[1],
                max_new_tokens=steps,
                seed=3,
                batch_size=64,
                per_token=token_entropy_and_kl,
            )

    few, many = (waits_of(partial(draw, steps)) for steps in (9, 33))
    assert Counter(many) - Counter(few) <= Counter({place: 3 for place in many if "_local_scalar_dense" in place})
