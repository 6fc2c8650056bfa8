"""What may be set for a loss: which knobs act, in which range, with which traps."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from studies.losses.table import DEFAULTS, DISCOPOP_TAU_TRAP, LOSSES, RENAMED, TABLE, UNAVAILABLE, listed
from studies.records import Scalar


@dataclass(frozen=True)
class Finding:
    """A mistake or a trap of one knob of an arm."""

    knob: str
    message: str


def suggest(word: str, known: Iterable[str]) -> str:
    """' (did you mean X?)' for the known word nearest to `word`, or nothing where none is near."""
    names = {name.lower(): name for name in known}
    near = difflib.get_close_matches(word.lower(), list(names), n=1, cutoff=0.6)
    return f" (did you mean {names[near[0]]}?)" if near else ""


def loss_problem(name: str) -> str | None:
    """Why `name` cannot be a loss, with what to write instead; None for a loss that TRL has."""
    if name in LOSSES or name in RENAMED:
        return None
    if name.lower() in UNAVAILABLE:
        return f"{name!r} is not a DPO loss of TRL: {UNAVAILABLE[name.lower()]}"
    return f"{name!r} is not a DPO loss of TRL{suggest(name, LOSSES)}; there are {', '.join(LOSSES)}"


def acts(losses: Sequence[str], knob: str) -> bool:
    """Whether the loss knob `knob` changes the training of this loss or mixture. True for what is no loss knob.

    Beta, smoothing and tau of a mixture are shared: a knob acts if it acts on any member.
    """
    if knob == "loss_weights":
        return len(losses) > 1
    return knob not in DEFAULTS or any(knob in LOSSES[loss].knobs for loss in losses)


def refusal(losses: Sequence[str], knob: str) -> str | None:
    """Why a non-default value of `knob` cannot be used with any one of the losses; None where it can."""
    for loss in losses:
        if knob in LOSSES[loss].refuses:
            return f"{loss}: {LOSSES[loss].refuses[knob]}"
    return None


def inert(losses: Sequence[str], knob: str) -> str:
    """One sentence saying that `knob` does nothing here, and where it would act."""
    where = [loss.name for loss in TABLE if knob in loss.knobs]
    shown = "+".join(losses)
    if knob == "loss_weights":
        return f"loss_weights does nothing on the single loss {shown}: it weighs the members of a mixture"
    if knob == "label_smoothing" and "sigmoid" in losses:
        return (
            f"label_smoothing does nothing on {shown} (sigmoid ignores it since TRL 0.29); it acts on {listed(where)}"
        )
    if len(where) > 7:
        return f"{knob} does nothing on {shown}"
    return f"{knob} does nothing on {shown}; it acts on {listed(where)}"


def bound_problem(losses: Sequence[str], knob: str, value: Scalar) -> str | None:
    """What is wrong with a value of a loss knob for any member; None where it is right or the knob does not act."""
    if isinstance(value, bool | str) or value is None:
        return None
    for loss in losses:
        bound = LOSSES[loss].knobs.get(knob)
        if bound is not None and not bound.holds(value):
            return f"must be {bound} for {loss}{_why(loss, knob, value)}"
    return None


def needs(losses: Sequence[str], possible: Mapping[str, Sequence[Scalar]]) -> list[Finding]:
    """What the losses need and `possible` (every value that a knob can take, by knob) does not give."""
    found = []
    if "exo_pair" in losses and "label_smoothing" not in possible:
        found.append(
            Finding(
                "label_smoothing", "exo_pair needs label_smoothing above 0 (TRL raises at 0); its paper uses 1.0e-3"
            )
        )
    if "f_alpha_divergence_coef" in possible and set(possible.get("f_divergence_type", ())) != {"alpha_divergence"}:
        found.append(
            Finding(
                "f_alpha_divergence_coef",
                "f_alpha_divergence_coef does nothing unless f_divergence_type is alpha_divergence",
            )
        )
    return found


def traps(losses: Sequence[str], possible: Mapping[str, Sequence[Scalar]], *, balanced: bool = False) -> list[Finding]:
    """What runs and surprises: warned, trained and flagged. `possible`: every value or both ends of a range, by
    knob; a knob that is missing has TRL's default. `balanced`: a mixture's weights are shares of the gradient.
    """
    beta = _numbers(possible, "beta")
    found = []
    if "discopop" in losses:
        tau = min(_numbers(possible, "discopop_tau"))
        if tau < DISCOPOP_TAU_TRAP:
            found.append(
                Finding(
                    "discopop_tau",
                    f"discopop_tau {tau:g} is below {DISCOPOP_TAU_TRAP}: the gradient at margin 0 has the wrong sign, "
                    "training starts by inverting preferences; 0.2 and above has no trap",
                )
            )
        if max(beta) >= 2.5:
            found.append(Finding("beta", f"discopop at beta {max(beta):g}: NaN once beta * margin falls below -88.7"))
    if {"aot", "aot_unpaired"} & set(losses) and 1 in possible.get("per_device_train_batch_size", ()):
        found.append(
            Finding(
                "per_device_train_batch_size",
                "aot sorts within the micro-batch: with per_device_train_batch_size 1 it is sigmoid; use 16 or more",
            )
        )
    smoothing = max(_numbers(possible, "label_smoothing"))
    if "robust" in losses and smoothing >= 0.4:
        found.append(
            Finding(
                "label_smoothing",
                f"robust at label_smoothing {smoothing:g}: gradients are {1 / max(1 - 2 * smoothing, 1e-9):.0f} times "
                "those of sigmoid",
            )
        )
    if "sppo_hard" in losses and 0.0 < min(beta) <= 0.01:
        found.append(
            Finding(
                "beta",
                f"sppo_hard at beta {min(beta):g} asks for {0.5 / min(beta):.0f} nats on each side: huge gradients, "
                "clipped at every step",
            )
        )
    dominant = sorted({"ipo", "sppo_hard"} & set(losses))
    if dominant and len(losses) > 1 and min(beta) <= 0.1 and not balanced:
        found.append(
            Finding(
                "loss_weights",
                f"{' and '.join(dominant)} at beta {min(beta):g} gives most of this mixture's gradient: weights are "
                "not normalised, so the mixture is close to it alone; balance: gradient in the variant makes them "
                "shares of the gradient",
            )
        )
    return found


def preset_warning(losses: Sequence[str], settings: Mapping[str, Scalar]) -> str | None:
    """A warning where `settings` are the guide's preset of the loss (learning rate and beta), made elsewhere."""
    preset = LOSSES[losses[0]].preset if len(losses) == 1 else None
    if preset is None or "learning_rate" not in preset.settings:
        return None
    if settings.get("learning_rate") != preset.settings["learning_rate"]:
        return None
    if settings.get("beta", DEFAULTS["beta"]) != preset.settings["beta"]:
        return None
    wrong = f" ({preset.guide_error})" if preset.guide_error else ""
    return f"the guide's preset for {losses[0]} comes from another scale: {preset.source}{wrong}"


def _numbers(possible: Mapping[str, Sequence[Scalar]], knob: str) -> list[float]:
    values = [v for v in possible.get(knob, ()) if isinstance(v, int | float) and not isinstance(v, bool)]
    default = DEFAULTS[knob]
    return [float(v) for v in values] or [float(default) if isinstance(default, int | float) else 0.0]


def _why(loss: str, knob: str, value: float) -> str:
    if knob == "label_smoothing" and value >= 0.5:
        return (
            ": at 0.5 it divides by zero, above it the objective is reversed"
            if loss == "robust"
            else (": at 0.5 nothing is preferred, above it the rejected side is")
        )
    if knob == "label_smoothing" and loss == "exo_pair":
        return ": TRL raises at 0; its paper uses 1.0e-3"
    return ""
