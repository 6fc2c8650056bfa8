"""From what a model and its data are to the sizes of a study that can conclude something within the hours. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from dashboards.statistics.estimates import FEWEST_BLOCKS
from studies.records.world_units import tasks_of_replicates
from studies.text.plural import so_many
from sweeper.commands.starter.cost import Machine, RunSize, guessed_seconds
from sweeper.commands.starter.facts import Facts
from sweeper.measuring.run_time import RunTime
from trainers.data.draws import canonical
from trainers.examine.lengths import Lengths, at_most

EMBEDDED_AT: Final = (0.2, 0.28, 0.4, 0.55, 0.75, 1.0)
"""Shares of a run of the embedded model at which it is measured, so that every drift is passed by."""
_PAIRS_A_STEP: Final = 16
_GUESSED: Final = 500_000_000  # parameters of a model that is not here
# (settings for each loss, replicates): the first that fits. More than these, a comparison of a few losses seldom needs.
_SIZES: Final = ((4, 8), (4, 6), (3, 6), (3, 5), (2, 5), (2, 4), (2, 3))
_MOST_REPLICATES: Final = 24
_FEWEST_HELD_OUT, _MOST_HELD_OUT = 48, 256
_VARIANTS: Final = ("sigmoid", "robust", "ipo")
_GUESSED_SHARE: Final = 0.8
"""Of the hours, what is planned for by a guess: it may be too low ..."""
MEASURED_SHARE: Final = 0.9
"""... and by a speed test: the last runs leave workers idle."""
_ENDS: Final = 40.0  # seconds to start the workers, time the losses and draw the table
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
    draws its data can give; `measurements`: of each run; `judge`: who compares samples, as a study file says it;
    `told`: what could not be as one would like it.

    `seconds`: that it takes in all, 0 where nobody can know, by a guess or (`is_timed`) by a speed test; `fits`:
    whether the hours do for it, and `room`: for how many replicates of its data.
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
    measurements: int = 1
    seconds: float = 0.0
    is_timed: bool = False
    fits: bool = True
    room: int = 0
    variants: tuple[str, ...] = _VARIANTS
    trials: int = 4
    replicates: int = 8
    told: tuple[str, ...] = ()
    judge: str | None = None

    @property
    def names_none(self) -> bool:
        """Whether its answer names no winner, as nobody judges what is written."""
        return self.max_length is not None and self.judge is None

    @property
    def runs(self) -> int:
        """All runs of the study: each loss's settings and the judging of the best, in every replicate."""
        return self.runs_a_replicate * self.replicates

    @property
    def runs_a_replicate(self) -> int:
        return self.runs_tuned + self.runs_judged

    @property
    def runs_tuned(self) -> int:
        """Runs of a replicate's first draw."""
        return len(self.variants) * self.trials

    @property
    def runs_judged(self) -> int:
        """Runs of its second one."""
        return len(self.variants)


def design(facts: Facts, hours: float, machine: Machine) -> Design:
    """The study that fits into the hours, by a guess."""
    whole = as_wished(facts, hours, machine)
    if not facts.model.is_here:
        return whole  # of which nothing is known that would cut it down
    parameters, tokens = facts.model.parameters or _GUESSED, _mean_tokens(facts, whole)

    def takes(one: Design) -> float:
        run = RunSize(
            *(parameters, one.steps, one.batch * one.accumulation, tokens),
            *(one.held_out or _MOST_HELD_OUT, one.prompts, one.new_tokens, one.measurements),
        )
        return guessed_seconds(run, one.runs, machine)

    found = _fitting_hours(whole, takes, _GUESSED_SHARE * hours * 3600)
    if found.fits:
        return found
    few = f"By a guess it takes {found.seconds / 3600:.2g} h: give more hours, or {hours:g} h end before it does."
    return replace(found, told=(*found.told, few))


def as_wished(facts: Facts, hours: float, machine: Machine) -> Design:
    """The study that hours without end would do for."""
    return _embedded(hours, machine) if facts.is_embedded else _of_own(facts, hours, machine)


def timed(whole: Design, run_time: RunTime, seconds: float) -> Design:
    """The study that fits into so many seconds, by what its runs take here, and with as many replicates as do; the
    smallest of all where none fits.
    """

    def takes(one: Design) -> float:
        each = run_time.of_run(one.steps, one.measurements, one.runs)
        draws = run_time.of_draws(one.replicates, one.runs_tuned) + run_time.of_draws(one.replicates, one.runs_judged)
        return (one.runs * each + draws) / run_time.workers + _ENDS

    found = _fitting_hours(replace(whole, is_timed=True), takes, MEASURED_SHARE * seconds)
    if found.room <= found.replicates:
        return found
    more = replace(found, replicates=found.room)
    return replace(more, seconds=takes(more))


def _fitting_hours(whole: Design, takes: Callable[[Design], float], seconds: float) -> Design:
    """The first of what the study can be cut down to that takes no longer, or the last of all."""
    last = whole
    for one in _smaller(whole):
        last = replace(one, seconds=takes(one))
        if last.seconds <= seconds:
            counts = range(last.replicates, whole.most_replicates + 1)
            room = max(count for count in counts if takes(replace(one, replicates=count)) <= seconds)
            return replace(last, room=room)
    return replace(last, fits=False)


def _smaller(whole: Design) -> Iterator[Design]:
    """The study, and what it can be cut down to, the least harm first. Runs that are measured on their way are read at
    a drift, to which shorter ones do not come.
    """
    shorter = whole.steps if whole.measurements > 1 else max(whole.steps // 2, min(whole.steps, 40))
    for variants in (whole.variants, tuple(v for v in whole.variants if v != "robust")):
        for steps in dict.fromkeys((whole.steps, shorter)):
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
        measurements=len(EMBEDDED_AT),
    )


def _of_own(facts: Facts, hours: float, machine: Machine) -> Design:
    parameters = facts.model.parameters or _GUESSED
    max_length, max_prompt, new_tokens, told = _lengths(facts)
    held_out, prompts, replicates, few = _draws(facts, max_length)
    batch = _batch(parameters, max_length, machine)
    return Design(
        hours=hours,
        machine=machine,
        steps=_steps(facts, held_out, max_length),
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


def trained_pairs(facts: Facts, held_out: int, max_length: int | None) -> int:
    """About how many pairs a run trains on: of those that fit, the ones that are not held out; 1 at least."""
    rows = facts.rows
    if rows is None:
        return 1
    fitting = len(rows.train) * _fitting(facts.lengths, max_length)
    return max(round(fitting - (held_out if rows.evaluation is None else 0)), 1)


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


def _steps(facts: Facts, held_out: int, max_length: int) -> int:
    """Three times through the training pairs, within 20 to 200 steps."""
    if facts.rows is None:
        return 200
    train = trained_pairs(facts, held_out, max_length)
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
