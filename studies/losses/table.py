"""TRL's DPO losses as data: which knobs act on which loss, in what range, with which traps, and what beta means.

The one place that knows this. Plain data: loads no TRL. `tests/studies/losses/test_table.py` holds the table against
the installed TRL (`trl/trainer/dpo_trainer.py`, `DPOTrainer._compute_loss`) by running it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from studies.losses.trl_settings import Bound
from studies.records import Scalar

# How a loss sees a pair: by the difference of its two sides, by each side alone, by both, by the sorted batch, or
# not against the reference at all. "DAAs are a Blur" (arXiv 2502.01237) finds this to be the primary factor.
View = Literal["pairwise", "pointwise", "mixed", "batch", "likelihood"]


@dataclass(frozen=True)
class Preset:
    """The settings that the guide prints for a loss, and the setting (model, data) that they were made for."""

    settings: Mapping[str, float]
    source: str
    guide_error: str = ""


@dataclass(frozen=True)
class Loss:
    """One TRL loss.

    `knobs`: the loss knobs that change its gradient, with the values that make sense. `refuses`: the knobs that
    cannot be used with it at all, with the reason. `margin`: the summed log-ratio margin in nats at which its
    gradient vanishes, in words, with b for beta and L for the length of an answer in tokens; `beta`: what beta is.
    """

    name: str
    title: str
    view: View
    margin: str
    beta: str
    knobs: Mapping[str, Bound]
    refuses: Mapping[str, str] = field(default_factory=dict)
    preset: Preset | None = None


# What TRL uses where a knob is not given (DPOConfig 1.16).
DEFAULTS: Mapping[str, Scalar] = {
    "beta": 0.1,
    "label_smoothing": 0.0,
    "discopop_tau": 0.05,
    "ld_alpha": None,
    "use_weighting": False,
    "f_divergence_type": "reverse_kl",
    "f_alpha_divergence_coef": 0.5,
}

# Below this tau the gradient of discopop at margin 0, where every run starts, has the wrong sign: the root of
# d/dx [softplus(-x) (1 - s(x/t)) + exp(-x) s(x/t)] at x = 0, which is -3/4 + (1 - log 2) / (4 t).
DISCOPOP_TAU_TRAP = 0.1023

_ANY = Bound(float("-inf"))
_BETA = Bound(0.0, open_low=True)
_TAU = Bound(0.0, open_low=True)
_FLIPS = Bound(0.0, 0.5, open_high=True)
_POINTWISE_F = "TRL refuses a non-default f-divergence here: it is defined only for losses of the reward difference"
_POINTWISE = {"f_divergence_type": _POINTWISE_F, "f_alpha_divergence_coef": _POINTWISE_F}
_AOT_WEIGHTING = "TRL refuses WPO weighting here: the loss sorts the batch, so weights would meet other pairs"
_SFT_WEIGHTING = "TRL crashes on it (in-place write on an expanded tensor)"
_HINGE_WEIGHTING = "TRL crashes on it in the backward pass (in-place write on the output of relu)"

_PAIR = {"beta": _BETA, "ld_alpha": Bound(0.0, 1.0), "use_weighting": _ANY}
_DIFFERENCE = {**_PAIR, "f_divergence_type": _ANY, "f_alpha_divergence_coef": _ANY}
_SORTED = {"beta": _BETA, "ld_alpha": Bound(0.0, 1.0), "label_smoothing": _FLIPS}

TABLE = (
    Loss(
        "sigmoid",
        "DPO",
        "pairwise",
        margin="none; soft, about 4/b",
        beta="strength of the pull to the reference; the gradient fades beyond a margin of about 4/b nats",
        knobs=_DIFFERENCE,
        preset=Preset(
            {"beta": 0.1, "per_device_train_batch_size": 64, "learning_rate": 1e-6},
            "DPO paper (arXiv 2305.18290), full fine-tuning of models of billions of parameters",
        ),
    ),
    Loss(
        "hinge",
        "SLiC",
        "pairwise",
        margin="1/b, no gradient beyond",
        beta="1/beta is the margin, in nats, beyond which a pair has no gradient",
        knobs={knob: bound for knob, bound in _DIFFERENCE.items() if knob != "use_weighting"},
        refuses={"use_weighting": _HINGE_WEIGHTING},
        preset=Preset(
            {"beta": 0.1, "per_device_train_batch_size": 512, "learning_rate": 1e-4},
            "SLiC-HF paper (arXiv 2305.10425), T5 models, batch 512",
        ),
    ),
    Loss(
        "ipo",
        "IPO",
        "pairwise",
        margin="L/(2b)",
        beta="the paper's tau: 1/(2 beta) is the target margin in nats per token; 0.1 asks for 5, 1 for 0.5",
        knobs=_DIFFERENCE,
        preset=Preset(
            {"beta": 0.1, "per_device_train_batch_size": 90, "learning_rate": 1e-2},
            "IPO paper (arXiv 2310.12036), a bandit with three actions: no language model",
        ),
    ),
    Loss(
        "exo_pair",
        "EXO",
        "pairwise",
        margin="ln((1-e)/e)/b",
        beta="scales the margin target ln((1-e)/e)/beta; at label_smoothing 1e-3 that is 6.9/beta nats",
        knobs={**_DIFFERENCE, "label_smoothing": Bound(0.0, 0.5, open_low=True, open_high=True)},
    ),
    Loss(
        "nca_pair",
        "NCA",
        "pointwise",
        margin="chosen +0.69/b, rejected none",
        beta="the chosen side is drawn to +0.69/beta nats, the rejected one pushed down without end",
        knobs=_PAIR,
        refuses=_POINTWISE,
    ),
    Loss(
        "robust",
        "Robust DPO",
        "pairwise",
        margin="none; pushes linearly for ever",
        beta="strength of the pull to the reference; the gradient never fades below beta*e/(1-2e)",
        knobs={**_DIFFERENCE, "label_smoothing": _FLIPS},
        preset=Preset(
            {
                "beta": 0.01,
                "label_smoothing": 0.1,
                "per_device_train_batch_size": 16,
                "learning_rate": 1e-3,
                "max_prompt_length": 128,
                "max_length": 512,
            },
            "Provably Robust DPO (arXiv 2403.00409, appendix B), GPT2-large on IMDb",
            guide_error="the paper's beta is 0.1; TRL's documentation corrected it in 0.29",
        ),
    ),
    Loss(
        "bco_pair",
        "BCO",
        "pointwise",
        margin="none, both sides",
        beta="strength per side; TRL 1.16 has no running-mean shift, so it is not the BCO paper's loss",
        knobs=_PAIR,
        refuses=_POINTWISE,
        preset=Preset(
            {
                "beta": 0.01,
                "per_device_train_batch_size": 128,
                "learning_rate": 5e-7,
                "max_prompt_length": 1536,
                "max_completion_length": 512,
            },
            "BCO paper (arXiv 2404.04656), full fine-tuning on UltraFeedback and Capybara",
        ),
    ),
    Loss(
        "sppo_hard",
        "SPPO",
        "pointwise",
        margin="chosen +0.5/b, rejected -0.5/b",
        beta="0.5/beta nats is the target of each side; the loss is a square, so small beta means huge gradients",
        knobs=_PAIR,
        refuses=_POINTWISE,
        preset=Preset({"beta": 0.1}, "the guide alone; the SPPO paper (arXiv 2405.00675) is online, beta 0.001"),
    ),
    Loss(
        "aot",
        "AOT, paired",
        "pairwise",
        margin="none; over the sorted micro-batch",
        beta="as in sigmoid, on sorted margins of a micro-batch",
        knobs=_SORTED,
        refuses={**_POINTWISE, "use_weighting": _AOT_WEIGHTING},
        preset=Preset({"beta": 0.1, "label_smoothing": 0.0}, "the guide; the AOT paper (arXiv 2406.05882) uses 0.01"),
    ),
    Loss(
        "aot_unpaired",
        "AOT, unpaired",
        "batch",
        margin="none; over the sorted micro-batch",
        beta="as in sigmoid, on chosen and rejected log-ratios sorted apart",
        knobs=_SORTED,
        refuses={**_POINTWISE, "use_weighting": _AOT_WEIGHTING},
        preset=Preset(
            {"beta": 0.1, "label_smoothing": 0.0},
            "the guide, under its older name aot_pair; the AOT paper (arXiv 2406.05882) uses beta 0.01",
        ),
    ),
    Loss(
        "apo_zero",
        "APO-zero",
        "pointwise",
        margin="none; bounded loss, gradient fades on both sides",
        beta="width of the region with a gradient: about 4/beta nats on each side",
        knobs=_PAIR,
        refuses=_POINTWISE,
        preset=Preset(
            {
                "beta": 0.1,
                "per_device_train_batch_size": 64,
                "learning_rate": 2e-7,
                "max_prompt_length": 512,
                "max_completion_length": 512,
            },
            "APO paper (arXiv 2408.06266), full fine-tuning of Llama-3-8B-Instruct",
        ),
    ),
    Loss(
        "apo_down",
        "APO-down",
        "mixed",
        margin="chosen down without end, margin up",
        beta="width of the region with a gradient; the chosen side is pushed down too",
        knobs=_PAIR,
        refuses=_POINTWISE,
        preset=Preset(
            {
                "beta": 0.1,
                "per_device_train_batch_size": 64,
                "learning_rate": 2e-7,
                "max_prompt_length": 512,
                "max_completion_length": 512,
            },
            "APO paper (arXiv 2408.06266), full fine-tuning of Llama-3-8B-Instruct",
        ),
    ),
    Loss(
        "discopop",
        "DiscoPOP",
        "pairwise",
        margin="none, or the trap at -0.1185/b where tau is small",
        beta="strength; with tau below 0.1023 a larger beta is what escapes the trap at margin 0",
        knobs={**_DIFFERENCE, "discopop_tau": _TAU},
        preset=Preset(
            {"beta": 0.05, "discopop_tau": 0.05, "per_device_train_batch_size": 64, "learning_rate": 5e-7},
            "DiscoPOP paper (arXiv 2406.08414), full fine-tuning of zephyr-7b-gemma",
        ),
    ),
    Loss(
        "sft",
        "SFT on the chosen side",
        "likelihood",
        margin="none",
        beta="does nothing",
        knobs={},
        refuses={"use_weighting": _SFT_WEIGHTING},
    ),
    Loss(
        "sigmoid_norm",
        "length-normalised DPO",
        "pairwise",
        margin="none; soft, about 4L/b",
        beta="as in sigmoid, on margins per token: about L times larger values do the same",
        knobs=_DIFFERENCE,
    ),
)

LOSSES: Mapping[str, Loss] = {loss.name: loss for loss in TABLE}

# Names that moved: the guide's `aot_pair` has, by its formula in TRL before 0.28, the sorted chosen against the
# sorted rejected log-ratios; that is `aot_unpaired` today. `aot` kept its formula (margins of pairs, sorted); it is
# the words "paired" and "unpaired" that the guide gives the wrong way round.
RENAMED: Mapping[str, tuple[str, str]] = {
    "aot_pair": (
        "aot_unpaired",
        "aot_pair is called aot_unpaired since TRL 0.28 (same formula: chosen and rejected sorted apart); the "
        "guide's words for it and for aot are the wrong way round: aot is the paired one",
    ),
}

# What people write for losses that TRL's DPO trainer does not have, and what to write instead.
UNAVAILABLE: Mapping[str, str] = {
    "kto_pair": "TRL removed it; bco_pair and apo_zero are the nearest losses of each side alone",
    "kto": "it is a loss of TRL's KTOTrainer for unpaired data; bco_pair and apo_zero are the nearest here",
    "cdpo": (
        "sigmoid ignores label_smoothing since TRL 0.29; conservative DPO with flip rate e is loss_type: "
        "[sigmoid, robust], loss_weights: [2 - 2e, 2e - 1], label_smoothing: e"
    ),
    "rpo": "write loss_type: [sigmoid, sft] with loss_weights: [1.0, <rpo_alpha>]",
    "dpo": "write sigmoid",
    "slic": "write hinge",
    "rdpo": "write robust",
    "bco": "write bco_pair",
    "nca": "write nca_pair",
    "exo": "write exo_pair",
    "sppo": "write sppo_hard",
    "apo": "write apo_zero or apo_down",
    "simpo": "it has no reference and is not among TRL's DPO losses; sigmoid_norm is the nearest",
    "orpo": "it has no reference and is not among TRL's DPO losses",
    "cpo": "it has no reference and is not among TRL's DPO losses",
}


def listed(names: Sequence[str]) -> str:
    return ", ".join(names[:-1]) + (" and " if len(names) > 1 else "") + names[-1] if names else "none"
