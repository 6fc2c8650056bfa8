"""What judges say of tuned losses, in words: how they were set head to head."""

from __future__ import annotations

from dashboards.tuned.contests import CONTROLLED
from dashboards.tuned.losses import Tuned, nats

WON = "vs untrained"  # the column in the place of a gain, where that is a win rate
_TWO_SIDED = 1.96


def rate_notes(found: Tuned) -> list[str]:
    """What the columns of a win rate mean."""
    level = ", at equal length" if found.metric == CONTROLLED else ""
    won = f"{WON}: how often they beat the untrained model's{level}, ties a half; 50% is no gain."
    met = [loss.met for loss in found.losses if loss.met is not None]
    if not met:
        compared = any(loss.difference is not None for loss in found.losses)
        return [*([_apart(found)] if compared else []), won]
    at = f", both at a drift of {nats(found.drift)}" if found.drift else ""
    errors = [one.within for one in met if one.within is not None]
    alone = f", whose luck alone is ±{100 * _TWO_SIDED * max(errors):.0f} points" if errors else ""
    prompts = f"{min(one.prompts for one in met):.0f}"
    lines = [
        f"vs {found.baseline}: how often its samples beat {found.baseline}'s under the same prompts{level}{at}, ties a "
        f"half; 50% is no difference. [a, b]: 95% interval over replicates, each of {prompts} "
        f"prompts{alone}.",
        won,
    ]
    doubted = [one.contradicted for one in met if one.contradicted is not None]
    if doubted:
        lines.append(
            "Asked in both orders, the judge contradicted itself at up to "
            f"{100 * max(doubted):.0f} of 100 prompts, which count as ties."
        )
    return lines


def _apart(found: Tuned) -> str:
    return (
        f"vs {found.baseline}: its win rate against the untrained model less {found.baseline}'s, in points: no samples "
        "were kept to set the two head to head."
    )
