"""From what a model and its data are to the sizes of a study that can conclude something within the hours. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Final

from dashboards.statistics.estimates import FEWEST_BLOCKS
from studies.records.world_units import tasks_of_replicates
from studies.text.plural import so_many
from sweeper.commands.starter.cost import Machine, RunSize, runs_within, seconds_of
from sweeper.commands.starter.facts import Facts
from trainers.data.draws import canonical
from trainers.examine.lengths import Lengths, at_most

_PAIRS_A_STEP: Final = 16
_GUESSED: Final = 500_000_000  # parameters of a model that is not here
# (settings for each loss, replicates): the first that fits. More than these, a comparison of a few losses seldom needs.
_SIZES: Final = ((4, 8), (4, 6), (3, 6), (3, 5), (2, 5), (2, 4), (2, 3))
_MOST_REPLICATES: Final = 24
_FEWEST_HELD_OUT, _MOST_HELD_OUT = 48, 256
_VARIANTS: Final = ("sigmoid", "robust", "ipo")
# Below so many parameters: learning rates that LoRA trains with in a few hundred steps.
_RATES: Final = (
    (1e6, (3e-4, 3e-3)),
    (1e7, (2e-4, 2e-3)),
    (3e8, (3e-5, 1e-3)),
    (3e9, (5e-6, 2e-4)),
    (float("inf"), (2e-6, 1e-4)),
)


@dataclass(frozen=True)
class Design:
    """The sizes of a study. `held_out`: pairs of a draw, which have `held_out_prompts`; `most_replicates`: how many
    draws its data can give; `allowed`: how many runs the hours do, by a guess of `seconds` a run; `judge`: who compares
    samples, as a study file says it; `told`: what could not be as one would like it.
    """

    hours: float
    machine: Machine
    steps: int
    batch: int
    accumulation: int
    rank: int
    rates: tuple[float, float]
    dtype: str | None
    max_length: int | None
    max_prompt_length: int | None
    held_out: int | None
    held_out_prompts: int | None
    prompts: int
    new_tokens: int
    most_replicates: int
    seconds: float = 0.0
    allowed: int = 0
    variants: tuple[str, ...] = _VARIANTS
    trials: int = 4
    replicates: int = 8
    told: tuple[str, ...] = ()
    judge: str | None = None

    @property
    def runs(self) -> int:
        """All runs of the study: each loss's settings and the judging of the best, in every replicate."""
        return self.runs_a_replicate * self.replicates

    @property
    def runs_a_replicate(self) -> int:
        return len(self.variants) * (self.trials + 1)


def design(facts: Facts, hours: float, machine: Machine) -> Design:
    """The study that fits into the hours."""
    whole = _embedded(hours, machine) if facts.is_embedded else _of_own(facts, hours, machine)
    if not facts.model.is_here:
        return whole  # of which nothing is known that would cut it down
    parameters, tokens = facts.model.parameters or _GUESSED, _mean_tokens(facts, whole)
    for one in _smaller(whole):
        run = RunSize(
            *(parameters, one.steps, one.batch * one.accumulation, tokens),
            *(one.held_out or _MOST_HELD_OUT, one.prompts, one.new_tokens, 6 if facts.is_embedded else 1),
        )
        seconds = seconds_of(run, machine)
        allowed = runs_within(hours * 3600, seconds, machine)
        found = replace(one, seconds=seconds, allowed=allowed)
        if found.runs <= allowed:
            return found
    few = f"By a guess, only {so_many(found.allowed, 'run')} of {found.runs} end within {hours:g} h: give more hours."
    return replace(found, told=(*found.told, few))


def _smaller(whole: Design) -> Iterator[Design]:
    """The study, and what it can be cut down to, the least harm first."""
    for variants in (whole.variants, tuple(v for v in whole.variants if v != "robust")):
        for steps in (whole.steps, max(whole.steps // 2, min(whole.steps, 40))):
            sizes = [(t, min(r, whole.most_replicates)) for t, r in _SIZES]
            for trials, replicates in dict.fromkeys(sizes):
                yield replace(whole, variants=variants, steps=steps, trials=trials, replicates=replicates)


def _embedded(hours: float, machine: Machine) -> Design:
    """As the quickstart."""
    return Design(
        *(hours, machine, 80, 16, 1, 8, (3e-4, 1.5e-3), None, None, None),
        held_out=64,
        held_out_prompts=None,
        prompts=192,
        new_tokens=32,
        most_replicates=min(_MOST_REPLICATES, tasks_of_replicates()),
    )


def _of_own(facts: Facts, hours: float, machine: Machine) -> Design:
    parameters = facts.model.parameters or _GUESSED
    max_length, max_prompt, new_tokens, told = _lengths(facts)
    held_out, prompts, replicates, few = _draws(facts, max_length)
    batch = _batch(parameters, max_length, machine)
    return Design(
        hours=hours,
        machine=machine,
        steps=_steps(facts, held_out),
        batch=batch,
        accumulation=_PAIRS_A_STEP // batch,
        rank=16 if parameters >= 1e8 else 8,
        rates=next(rates for limit, rates in _RATES if parameters < limit),
        dtype="bfloat16" if machine.gpu and parameters >= 3e8 else None,
        max_length=max_length,
        max_prompt_length=max_prompt,
        held_out=held_out,
        held_out_prompts=prompts,
        prompts=min(64, prompts),
        new_tokens=new_tokens,
        most_replicates=replicates,
        replicates=min(8, replicates),
        told=(*told, *few),
    )


def _lengths(facts: Facts) -> tuple[int, int | None, int, tuple[str, ...]]:
    """Limits of pairs, of prompts where a model's positions end, and of samples."""
    positions, lengths = facts.model.positions, facts.lengths
    limit = min(positions or 2048, 2048)
    if lengths is None:
        new_tokens = min(128, max(16, limit // 4))
        return min(1024, limit), None, new_tokens, ()
    wanted = -(-at_most(lengths.pairs, 0.95) // 64) * 64
    max_length = min(max(wanted, 64), limit)
    new_tokens = -(-at_most(lengths.chosen, 0.75) // 16) * 16
    new_tokens = min(max(new_tokens, 16), 256, max(16, limit // 4))
    out = 1 - _fitting(lengths, max_length)
    told = (f"{100 * out:.0f} of 100 pairs are longer than {max_length} tokens and left out.",) if out > 0.1 else ()
    return max_length, limit + 1 - new_tokens if facts.model.is_table else None, new_tokens, told


def _fitting(lengths: Lengths | None, max_length: int | None) -> float:
    """The share of pairs that fit."""
    pairs = lengths.pairs if lengths is not None else []
    return sum(n <= max_length for n in pairs) / len(pairs) if pairs and max_length is not None else 1.0


def _draws(facts: Facts, max_length: int) -> tuple[int, int, int, tuple[str, ...]]:
    """Held-out pairs of a draw and the prompts that they have, as pairs of one prompt are held out together; and how
    many replicates the data can give so that judging draws share few of them.
    """
    rows = facts.rows
    if rows is None:
        return _MOST_HELD_OUT, _MOST_HELD_OUT, _MOST_REPLICATES, ()
    there = rows.train if rows.evaluation is None else rows.evaluation
    prompts = len({canonical(row["prompt"]) for row in there})
    pool = int(prompts * _fitting(facts.lengths, max_length))
    most = min(_MOST_REPLICATES, max(pool // _FEWEST_HELD_OUT, FEWEST_BLOCKS))
    share = pool // most if rows.evaluation is not None or most > FEWEST_BLOCKS else pool // (2 * most)
    asked = max(1, min(_MOST_HELD_OUT, share))
    held_out = round(asked * len(there) / max(prompts, 1))
    if pool >= 8 * _FEWEST_HELD_OUT or not pool:
        return held_out, asked, most, ()
    whole, part = ("rows", "pair") if prompts == len(there) else ("prompts", "prompt")
    few = (
        f"{pool:,} {whole} are few: {so_many(most, 'replicate')} with {so_many(asked, f'held-out {part}')} each, where "
        f"8 with {_FEWEST_HELD_OUT} want {8 * _FEWEST_HELD_OUT}; only large differences will show."
    )
    return held_out, asked, most, (few,)


def _steps(facts: Facts, held_out: int) -> int:
    """Three times through the training pairs, within 20 to 200 steps."""
    if facts.rows is None:
        return 200
    train = len(facts.rows.train) - (held_out if facts.rows.evaluation is None else 0)
    return min(200, max(20, round(3 * train / _PAIRS_A_STEP / 10) * 10))


def _batch(parameters: int, max_length: int, machine: Machine) -> int:
    """Pairs in a micro-batch, by what memory they take."""
    if parameters < 1e7:
        return 16
    found = (8 if parameters < 1e9 else 4 if parameters < 4e9 else 2 if parameters < 2e10 else 1) if machine.gpu else 4
    return max(1, found // 2) if max_length > 1024 else found


def _mean_tokens(facts: Facts, whole: Design) -> int:
    if facts.is_embedded:
        return 16
    if facts.lengths is None:
        return (whole.max_length or 1024) // 2
    fitting = [n for n in facts.lengths.pairs if whole.max_length is None or n <= whole.max_length]
    return sum(fitting) // max(len(fitting), 1)
