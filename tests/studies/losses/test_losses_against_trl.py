"""The table of losses held against the installed TRL by running TRL's own loss: an upgrade that changes one shows."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM
from trl import DPOConfig, DPOTrainer

from studies.losses import batch_splitting as micro_batches
from studies.losses import rules, table
from tests.trainers.pack_runs import float64
from trainers.world.paths import model_path

# Another value for each knob than TRL's default, and what must be set beside it for it to mean anything.
OTHER: Mapping[str, tuple[Any, Mapping[str, Any]]] = {
    "beta": (0.3, {}),
    "label_smoothing": (0.2, {}),
    "discopop_tau": (0.5, {}),
    "ld_alpha": (0.5, {}),
    "use_weighting": (True, {}),
    "f_divergence_type": ("js_divergence", {}),
    "f_alpha_divergence_coef": (0.3, {"f_divergence_type": "alpha_divergence"}),
}
# What a loss cannot run without.
NEEDED: Mapping[str, Mapping[str, Any]] = {"exo_pair": {"label_smoothing": 0.01}}

# The refusals of TRL: in its constructor, and (sft with weighting) in its loss.
REFUSALS = (ValueError, NotImplementedError, RuntimeError)

# Answers differ in length, so that what depends on length shows.
PAIRS = [
    ("the film was", " good and warm .", " bad ."),
    ("the plot was", " fine .", " slow and cold and bad ."),
    ("the music was", " warm and good and fine .", " cold ."),
    ("the scene was", " good .", " bad and slow ."),
]

# Answers of one length, so that the policy does not order margins as the reference does, which would make sorting
# change nothing.
EVEN_PAIRS = [
    ("the film was", " good and warm .", " bad and cold ."),
    ("the film was", " fine and good .", " slow and bad ."),
    ("the film was", " warm and fine .", " cold and slow ."),
    ("the film was", " bad and good .", " warm and slow ."),
]


class Bench:
    """Real DPOTrainers over one pair of tiny random models; asks for the loss and gradient of one batch.

    In float64 (`wide`), what is equal up to rounding is told from what is not on every machine.
    """

    def __init__(self, folder: Path, *, wide: bool) -> None:
        self._folder, self._wide = folder, wide
        self._known: dict[str, tuple[float, torch.Tensor]] = {}
        self._tokenizer = AutoTokenizer.from_pretrained(model_path())
        self._shape = LlamaConfig(
            vocab_size=len(self._tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_key_value_heads=2,
            initializer_range=0.6,
        )

    def model(self, seed: int) -> LlamaForCausalLM:
        """A random model; equal seeds give equal models."""
        torch.manual_seed(seed)
        model = LlamaForCausalLM(self._shape)
        return model.double() if self._wide else model

    def loss(
        self,
        losses: Sequence[str],
        pairs: Sequence[tuple[str, str, str]] = PAIRS,
        *,
        at_reference: bool = False,
        **settings: Any,
    ) -> tuple[float, torch.Tensor]:
        """TRL's loss on one batch of `pairs` and its gradient by all parameters, as one flat vector.

        `at_reference`: the policy equals the reference, as at the first step; else all log-ratios differ. Asked for
        twice, it is computed once: most of the time is that of making a trainer.
        """
        asked = repr((losses, pairs, at_reference, sorted(settings.items())))
        if asked not in self._known:
            with pytest.MonkeyPatch.context() as patch, float64(patch) if self._wide else nullcontext():
                self._known[asked] = self._loss(losses, pairs, at_reference, settings)
        return self._known[asked]

    def _loss(
        self,
        losses: Sequence[str],
        pairs: Sequence[tuple[str, str, str]],
        at_reference: bool,
        settings: Mapping[str, Any],
    ) -> tuple[float, torch.Tensor]:
        needed = {k: v for loss in losses for k, v in NEEDED.get(loss, {}).items()}
        args = DPOConfig(
            output_dir=str(self._folder),
            loss_type=list(losses),
            per_device_train_batch_size=len(pairs),
            report_to="none",
            bf16=False,
            use_cpu=True,
            gradient_checkpointing=False,
            **{**needed, **settings},
        )
        rows = [dict(zip(("prompt", "chosen", "rejected"), pair, strict=True)) for pair in pairs]
        trainer = DPOTrainer(
            model=self.model(0),
            ref_model=self.model(0 if at_reference else 1),
            args=args,
            train_dataset=datasets.Dataset.from_list(rows),
            processing_class=self._tokenizer,
        )
        batch = trainer.data_collator([trainer.train_dataset[i] for i in range(len(pairs))])
        trainer.model.train()
        loss = trainer.compute_loss(trainer.model, batch)
        loss.backward()
        gradient = torch.cat([p.grad.flatten() for p in trainer.model.parameters() if p.grad is not None])
        return float(loss.detach()), gradient


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    datasets.disable_progress_bars()
    return Bench(tmp_path_factory.mktemp("trl"), wide=True)


@pytest.fixture(scope="module")
def narrow_bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    """In float32, the widest in which TRL knows the alpha divergence."""
    return Bench(tmp_path_factory.mktemp("trl"), wide=False)


def test_the_table_has_the_losses_that_trl_names(bench: Bench) -> None:
    with pytest.raises(ValueError, match="Unknown loss type") as caught:
        bench.loss(["no_such_loss"])
    named = re.findall(r"'(\w+)'", str(caught.value).partition("one of")[2])
    assert sorted(named) == sorted(table.LOSSES)


def test_the_defaults_are_those_of_trl() -> None:
    defaults = DPOConfig(output_dir="unused", bf16=False, use_cpu=True, report_to="none")
    assert {knob: getattr(defaults, knob) for knob in table.DEFAULTS} == table.DEFAULTS


@pytest.mark.parametrize("loss", table.LOSSES)
def test_knobs_act_on_a_loss_as_the_table_says(narrow_bench: Bench, loss: str) -> None:
    measured, said = {}, {}
    for knob, (value, beside) in OTHER.items():
        said[knob] = (
            "refused"
            if rules.refusal([loss], knob) is not None
            else ("acts" if rules.acts([loss], knob) else "does nothing")
        )
        measured[knob] = _effect(lambda **s: narrow_bench.loss([loss], **s), knob, value, beside)
    assert measured == said


def _effect(loss: Callable[..., tuple[float, torch.Tensor]], knob: str, value: Any, beside: Mapping[str, Any]) -> str:
    try:
        _, plain = loss(**beside)
        _, changed = loss(**{**beside, knob: value})
    except REFUSALS:
        return "refused"
    return "does nothing" if torch.equal(plain, changed) else "acts"


@pytest.mark.parametrize("loss", table.LOSSES)
def test_a_loss_sees_pairs_as_the_table_says(bench: Bench, loss: str) -> None:
    pairs = EVEN_PAIRS
    others = [*pairs[1:], pairs[0]]
    exchanged = [(prompt, chosen, other[2]) for (prompt, chosen, _), other in zip(pairs, others, strict=True)]
    whole, _ = bench.loss([loss], pairs)
    apart, _ = bench.loss([loss], exchanged)
    halves = [([0, 1], [2, 3]), ([0, 2], [1, 3]), ([0, 3], [1, 2])]
    means = [sum(bench.loss([loss], [pairs[i] for i in half])[0] for half in split) / 2 for split in halves]
    view = table.LOSSES[loss].view
    assert (whole != pytest.approx(apart, rel=1e-9)) == (view in ("pairwise", "mixed"))
    # aot and aot_unpaired sort the batch, so its halves do not add up to it. (sft averages over tokens, which shows
    # only where answers differ in length.)
    assert any(whole != pytest.approx(mean, rel=1e-9) for mean in means) == (loss in ("aot", "aot_unpaired"))


def test_beta_of_a_mixture_acts_where_it_acts_on_a_member(bench: Bench) -> None:
    assert rules.acts(["sft", "sigmoid"], "beta")
    assert _effect(lambda **s: bench.loss(["sft", "sigmoid"], **s), "beta", 0.3, {}) == "acts"


def test_a_mixture_is_refused_where_a_member_is(bench: Bench) -> None:
    assert rules.refusal(["sigmoid", "bco_pair"], "f_divergence_type") is not None
    with pytest.raises(ValueError, match="f_divergence_type"):
        bench.loss(["sigmoid", "bco_pair"], f_divergence_type="js_divergence")


def test_robust_at_one_half_is_not_finite_and_beyond_it_reversed(bench: Bench) -> None:
    assert rules.bound_problem(["robust"], "label_smoothing", 0.5) is not None
    assert rules.bound_problem(["robust"], "label_smoothing", 0.49) is None
    _, at_half = bench.loss(["robust"], label_smoothing=0.5)
    assert not torch.isfinite(at_half).all()
    _, sigmoid = bench.loss(["sigmoid"], at_reference=True)
    _, below = bench.loss(["robust"], label_smoothing=0.4, at_reference=True)
    _, above = bench.loss(["robust"], label_smoothing=0.6, at_reference=True)
    assert torch.dot(below, sigmoid) > 0 > torch.dot(above, sigmoid)


@pytest.mark.parametrize("loss", ["exo_pair", "aot", "aot_unpaired"])
def test_label_smoothing_above_one_half_prefers_the_rejected_side(bench: Bench, loss: str) -> None:
    assert rules.bound_problem([loss], "label_smoothing", 0.6) is not None
    _, sigmoid = bench.loss(["sigmoid"], PAIRS[:1], at_reference=True)
    _, below = bench.loss([loss], PAIRS[:1], at_reference=True, label_smoothing=0.4)
    _, above = bench.loss([loss], PAIRS[:1], at_reference=True, label_smoothing=0.6)
    assert torch.dot(below, sigmoid) > 0 > torch.dot(above, sigmoid)


def test_exo_pair_needs_label_smoothing(bench: Bench) -> None:
    assert rules.bound_problem(["exo_pair"], "label_smoothing", 0.0) is not None
    assert rules.needs(["exo_pair"], {}) != []
    with pytest.raises(ValueError, match="Label smoothing"):
        bench.loss(["exo_pair"], label_smoothing=0.0)


def test_discopop_starts_the_wrong_way_below_the_tau_of_the_table(bench: Bench) -> None:
    _, right = bench.loss(["sigmoid"], at_reference=True)
    ways = {}
    for tau in (0.05, table.DISCOPOP_TAU_TRAP - 0.001, table.DISCOPOP_TAU_TRAP + 0.001, 0.2):
        _, gradient = bench.loss(["discopop"], at_reference=True, discopop_tau=tau)
        ways[tau] = bool(torch.dot(gradient, right) > 0)
    assert list(ways.values()) == [False, False, True, True]
    assert rules.traps(["discopop"], {}) != []  # TRL's default is in the trap
    assert rules.traps(["discopop"], {"discopop_tau": (0.2,)}) == []


@pytest.mark.parametrize("loss", ["aot", "aot_unpaired"])
def test_aot_with_one_pair_a_batch_is_sigmoid(bench: Bench, loss: str) -> None:
    _, aot = bench.loss([loss], PAIRS[:1])
    _, sigmoid = bench.loss(["sigmoid"], PAIRS[:1])
    torch.testing.assert_close(aot, sigmoid, rtol=1e-9, atol=1e-9)
    assert rules.traps([loss], {"per_device_train_batch_size": (1,)}) != []
    assert rules.traps([loss], {"per_device_train_batch_size": (4,)}) == []


def test_the_recipe_for_conservative_dpo_is_conservative_dpo(bench: Bench) -> None:
    flips = 0.2
    assert "[2 - 2e, 2e - 1]" in (rules.loss_problem("cdpo") or "")
    recipe, _ = bench.loss(
        ["sigmoid", "robust"], PAIRS[:1], label_smoothing=flips, loss_weights=[2 - 2 * flips, 2 * flips - 1]
    )
    # aot of one pair is sigmoid with label smoothing, that is conservative DPO.
    conservative, _ = bench.loss(["aot_unpaired"], PAIRS[:1], label_smoothing=flips)
    assert recipe == pytest.approx(conservative, abs=1e-9)


def test_ipo_gives_most_of_the_gradient_of_a_mixture_at_small_beta(bench: Bench) -> None:
    _, sigmoid = bench.loss(["sigmoid"], beta=0.1, at_reference=True)
    _, ipo = bench.loss(["ipo"], beta=0.1, at_reference=True)
    assert ipo.norm() > 5 * sigmoid.norm()
    assert rules.traps(["sigmoid", "ipo"], {"beta": (0.1,)}) != []
    assert rules.traps(["sigmoid", "ipo"], {"beta": (0.5,)}) == []


@pytest.mark.parametrize("loss", table.LOSSES)
def test_a_micro_batch_can_be_cut_where_its_loss_is_the_mean_over_pairs_and_nowhere_else(
    bench: Bench, loss: str
) -> None:
    """Equal parts, one after the other, give the gradient of the whole: what gradient accumulation averages."""
    same = True
    for pairs in (PAIRS, EVEN_PAIRS):  # sft shows where lengths differ, aot where policy and reference rank differently
        _, whole = bench.loss([loss], pairs)
        parts = [bench.loss([loss], half)[1] for half in (pairs[:2], pairs[2:])]
        same = same and torch.allclose(torch.stack(parts).mean(0), whole, rtol=1e-9, atol=1e-9)
    assert same is micro_batches.can_be_cut({"loss_type": loss, "per_device_train_batch_size": len(PAIRS)}, 2)
