"""How often the comparison says what is not so, and what it finds: the whole procedure, simulated.

    python -m tests.benchmarks.simulated_comparisons [--repeats 10000]

Six losses are tuned by n points on one draw and judged on another in each replicate, which is a task of its own, and
the project's functions say the words; the old design beside it. Equal losses are equal *after tuning with n trials*:
each is shifted by what simulating its tuning alone gives. Writes `simulated_comparisons.md` beside this file.
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import permutations
from pathlib import Path

import numpy as np
from scipy import special

from dashboards.statistics.compare import ALPHA, compare
from dashboards.statistics.estimates import Floats
from dashboards.statistics.replicated.best import not_worse_than_best
from dashboards.statistics.replicated.differences import against_baseline
from tests.benchmarks.simulated_losses import (
    AS_RECORDED,
    OLD_JUDGED,
    OLD_TASKS,
    OLD_TUNED,
    STEEP,
    TOP,
    Bools,
    Design,
    Loss,
    scrambles,
    simulated,
    worth,
)
from tests.benchmarks.simulated_stability import at_least, at_most, percent, stability_table

WORDS = {1: "better", -1: "worse", 0: "inconclusive"}
WITHIN = 0.03  # U, the width of a tie
REPLICATES, POINTS = (6, 8, 12, 18), (4, 8, 16)
OLD = Design(16, None)
SCRAMBLES = 8192


@dataclass(frozen=True)
class Words:
    """What `against_baseline` says of all repeats at once [repeats, losses - 1]; `agrees` checks it against that.

    `claim`: 1 better, -1 worse, 0 neither.
    """

    claim: Floats
    tie: Bools
    low: Floats
    high: Floats
    spread: Floats

    def covers(self, true: float) -> Bools:
        """Whether the intervals hold it, of those that there are."""
        known = ~np.isnan(self.low)
        held: Bools = ((self.low <= true) & (true <= self.high))[known]
        return held


def words(values: Floats) -> Words:
    """Of values [repeats, replicates, losses], the first loss being the baseline; NaN is missing."""
    d = values[:, :, 1:] - values[:, :, :1]
    n, mean, error = moments(d)
    p = 2 * special.stdtr(n - 1, -np.abs(mean / error))
    tie = special.stdtr(n - 1, (np.abs(mean) - WITHIN) / error) < ALPHA
    claim = np.where((holm(p) < ALPHA) & ~tie, np.sign(mean), 0.0)
    half = special.stdtrit(n - 1, 0.975) * error
    return Words(claim, tie, mean - half, mean + half, error * np.sqrt(n))


def moments(d: Floats) -> tuple[Floats, Floats, Floats]:
    """Number, mean and standard error over axis 1, where there are three or more values; else NaN."""
    there = ~np.isnan(d)
    n = np.where(there.sum(axis=1) >= 3, there.sum(axis=1), np.nan)
    mean = np.where(there, d, 0.0).sum(axis=1) / n
    square = np.where(there, (d - mean[:, None]) ** 2, 0.0).sum(axis=1)
    return n, mean, np.sqrt(square / (n - 1) / n)


def holm(ps: Floats) -> Floats:
    """Corrected along the last axis; what is NaN is none of them."""
    order = np.argsort(ps, axis=-1)
    left = (~np.isnan(ps)).sum(axis=-1, keepdims=True) - np.arange(ps.shape[-1])
    steps = np.maximum.accumulate(np.take_along_axis(ps, order, axis=-1) * left, axis=-1)
    adjusted = np.empty_like(ps)
    np.put_along_axis(adjusted, order, np.minimum(steps, 1.0), axis=-1)
    return adjusted


def beaten(values: Floats) -> Bools:
    """Which losses `not_worse_than_best` puts out [repeats, losses]."""
    losses = values.shape[-1]
    better, worse = np.array(list(permutations(range(losses), 2))).T
    n, mean, error = moments(values[:, :, better] - values[:, :, worse])
    shown = holm(special.stdtr(n - 1, (WITHIN - mean) / error)) < ALPHA
    return np.stack([shown[:, worse == loss].any(axis=-1) for loss in range(losses)], axis=-1)


def agrees(design: Design, values: Floats, names: Sequence[str], repeats: int = 40) -> bool:
    """Whether the project's own functions say the same of the first repeats."""
    mine, out = words(values[:repeats]), beaten(values[:repeats])
    of = {block: (OLD_TUNED + block) % OLD_TASKS for block in range(OLD_JUDGED)}
    for repeat, panel in enumerate(panels(values[:repeats], names)):
        new = design.replicates is not None
        found = against_baseline(panel, names[0], WITHIN) if new else compare(panel, names[0], WITHIN, of)
        for column, name in enumerate(names[1:]):
            word = "tie" if mine.tie[repeat, column] else WORDS[int(mine.claim[repeat, column])]
            if name in found and (
                found[name].word != word or not close(found[name].estimate.low, mine.low[repeat, column])
            ):
                return False
        if set(not_worse_than_best(panel, WITHIN).beaten) != {n for n, o in zip(names, out[repeat], strict=True) if o}:
            return False
    return True


def close(one: float | None, other: float) -> bool:
    """Whether two limits are the same number, or both none."""
    return np.isnan(other) if one is None else abs(one - other) < 1e-9


def panels(values: Floats, names: Sequence[str]) -> Iterator[dict[str, dict[int, float]]]:
    """Values [repeats, replicates, losses] as the project's functions take them; what is NaN is missing."""
    for of in values:
        yield {
            name: {r: value for r, value in enumerate(of[:, column].tolist()) if value == value}
            for column, name in enumerate(names)
        }


def rotated(values: Floats, shift: float, first: int) -> tuple[Floats, Bools]:
    """The values with one loss shifted in each repeat, in turn from `first` on, and which it was [repeats, losses]."""
    losses = np.arange(values.shape[-1])
    turn = first + np.arange(len(values)) % (len(losses) - first)
    which = losses == turn[:, None]
    return values + shift * which[:, None], which


@dataclass(frozen=True)
class Measured:
    """What a design does over all repeats.

    Where all are equal: mean paired standard deviation, share of studies with any false difference and of comparisons
    with one, intervals that hold 0, ties said. `tied`: false ties where the true difference is the width. `found`: of
    .06 and .1 U. The set of the best, where one loss is the width ahead of all others: how often it is put out, how
    often any is; and how often a loss .1 U behind is.
    """

    spread: float
    any_different: float
    different: float
    covered: float
    true_ties: float
    tied: float
    found: tuple[float, float]
    best_out: float
    as_good_out: float
    behind_out: float


def measured(design: Design, losses: Sequence[Loss], pool: Floats, repeats: int, seed: int = 0) -> Measured:
    """Null, edges of the tie, planted differences and the set of the best."""
    expected = worth(design, losses, brute_force(design), pool, seed + 1)
    values = simulated(design, losses, repeats, pool, seed) - expected + TOP
    edges = WITHIN * np.array([0, 1, -1, 1, -1, 1])
    (ahead, best), (behind, worst) = rotated(values, WITHIN, first=0), rotated(values, -0.1, first=0)
    for panel in (values, values + edges, ahead, behind):
        if not agrees(design, panel, [loss.name for loss in losses]):
            raise AssertionError(f"{design.name}: the project's functions say something else")
    null, out = words(values), beaten(ahead)

    def found(shift: float) -> float:
        shifted, which = rotated(values, shift, first=1)
        return float((words(shifted).claim[which[:, 1:]] > 0).mean())

    return Measured(
        spread=float(np.nanmean(null.spread)),
        any_different=float((null.claim != 0).any(axis=-1).mean()),
        different=float((null.claim != 0).mean()),
        covered=float(null.covers(0.0).mean()),
        true_ties=float(null.tie.mean()),
        tied=float(words(values + edges).tie.mean()),
        found=(found(0.06), found(0.1)),
        best_out=float(out[best].mean()),
        as_good_out=float(out.any(axis=-1).mean()),
        behind_out=float(beaten(behind)[worst].mean()),
    )


def comparison_table(designs: Sequence[Design], losses: Sequence[Loss], pool: Floats, repeats: int) -> str:
    """A row for each design."""
    rows = []
    for number, design in enumerate(designs):
        of = measured(design, losses, pool, repeats, seed=10 * number)
        rows.append([
            design.name, design.runs, f"{of.spread:.3f}", at_most(of.any_different, repeats), percent(of.different),
            at_most(of.tied, repeats), at_least(of.covered, repeats), percent(of.true_ties), *map(percent, of.found),
            f"{at_most(of.best_out, repeats)} / {at_most(of.as_good_out, repeats)}", percent(of.behind_out),
        ])  # fmt: skip
    return table(
        ["Design", "Runs a loss", "Paired SD (U)", "Any false difference (<= 5 %)", "Each", "False ties (<= 5 %)",
         "Covered (>= 93 %)", "True ties said", "Found .06 U", "Found .1 U", "Put out: best / any within .03 (<= 5 %)",
         "Put out: .1 U behind"],
        rows,
    )  # fmt: skip


def control_table(designs: Sequence[Design], pool: Floats, repeats: int) -> str:
    """A loss against itself: with points of its own, and with the range of its strengths doubled.

    The second truly loses by being tuned in a wider box, by what brute force says; false is any difference beyond that.
    """
    rows = []
    for number, design in enumerate(designs):
        for loss in (AS_RECORDED[0], STEEP[0]):
            for what, stretch in (("two scrambles", 1.0), ("range doubled", 2.0)):
                pair = [loss, replace(loss, name="other", stretch=stretch)]
                surface = "as recorded" if loss is AS_RECORDED[0] else "steep"
                values = simulated(design, pair, repeats, pool, seed=500 + number, own=True)
                expected = worth(design, pair, brute_force(design), pool, seed=600 + number, own=True)
                found, told = words(values - expected), words(values)
                rows.append([
                    what, surface, design.name, f"{expected[1] - expected[0]:+.3f}",
                    at_most(float((found.claim != 0).mean()), repeats),
                    at_least(float(found.covers(0.0).mean()), repeats), percent(float((told.claim != 0).mean())),
                ])  # fmt: skip
    return table(
        ["sigmoid against itself", "Surface", "Design", "True difference (U)", "False differences (<= 5 %)",
         "Covered (>= 93 %)", "Called different"],
        rows,
    )  # fmt: skip


def brute_force(design: Design) -> int:
    """How many tunings tell what one is worth to .0002 U."""
    return 100_000 if design.replicates else 20_000


def table(head: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(map(str, line)) + " |" for line in lines)


def hardware() -> str:
    """Number of cores and name of the CPU."""
    text = Path("/proc/cpuinfo").read_text(encoding="utf-8") if Path("/proc/cpuinfo").exists() else ""
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.MULTILINE)
    return f"{os.cpu_count()} cores, {name[1] if name else 'CPU of unknown name'}"


HEAD = """# The comparison, simulated

Six losses, each a surface over learning rate and strength with its own best place, width and cliff beyond which runs
break. In a new task the best place and the cliff move by .07 of the box and the loss's worth by .015 U; a run differs
by .02 U from what it truly is. The new design tunes each loss in each of R replicates (a task, a scrambled Sobol set of
n points shared by the losses, a tuning draw) and judges its choice on another draw; the old one tunes once, by 16
points on 2 draws, and judges on 18 draws of 6 tasks. Words are those of `dashboards.statistics`, computed for all
repeats at once and checked against its functions on the first 40. A tie is within .03 U; differences are corrected by
Holm over five losses.

Equal losses are equal in what they gain *after tuning by the design*, by 100,000 simulated tunings (the old one:
20,000). False: said of such. False ties: said of losses that truly differ by .03 U. Found: a loss that is truly better,
the others equal. Put out: of the set not shown worse than the best by more than .03 U, where one loss is .03 U ahead of
all others, and where one is .1 U behind. A target missed by more than two standard errors of the simulation is
**bold**."""

WHY = """## What is missed, and why

- *The old design misses every target but that of keeping the best.* Its interval is that of one setting of each loss on
  six tasks: the luck of the 16 points and what tasks add beyond six are in no interval. More judging draws make it
  surer, not truer.
- *Wide boxes and few points.* Where n points seldom hit a narrow good region (the range of strengths doubled at n 8;
  steep surfaces at n 4), a rare replicate is tuned badly, by .3 U in one of a hundred. Paired differences then have a
  long tail to one side (skewness -2), most studies see little of it, and the t interval lies too far to the other side:
  nearly all false differences favour the loss with the tail. More replicates help little, more points do: with n 16
  the worst is 5.7 %. So the number of points stands beside each difference, and a box is to be no wider than need be.
- *Losses with narrow peaks at n 4* differ by tuning luck (paired SD .06 U and more): ties within .03 U are seldom shown
  at any number of replicates here.
- *Breaks.* What exact McNemar and Tango's score say of points alone, as if independent, is wrong in up to a quarter of
  cases where the cliff moves by task, the more points the more often. With the t test over replicates beside them the
  worst is 6.7 %, in one cell of thirty: shares of few points are skewed as well."""

STABILITY = """One loss against sigmoid, which breaks on 15 of 100 settings; a tenth of the repeats. False: said where
gains and breaks are equal, where it gains .10 less, where it breaks on 10 or 25 in 100 more. Rightly said: *Good* where
all is equal, *Better* where a random setting gains .15 more, *Poor* where it breaks on 50 in 100 more. In brackets:
points alone."""


def report(repeats: int) -> Iterator[str]:
    """The page, part by part."""
    pool = scrambles(SCRAMBLES, seed=1)
    yield HEAD
    designs = [OLD, *(Design(n, r) for n in POINTS for r in REPLICATES)]
    yield "## Surfaces as recorded\n\n" + comparison_table(designs, AS_RECORDED, pool, repeats)
    yield "## Steep surfaces\n\n" + comparison_table(designs, STEEP, pool, repeats)
    yield (
        "## Controls\n\nsigmoid against itself, in the same tasks: with points of its own, and with the range of its "
        "strengths doubled, which truly costs something.\n\n"
        + control_table([OLD, *(Design(n, r) for n in (8, 16) for r in (6, 12))], pool, repeats)
    )
    words_of_stability = table(*stability_table(pool, max(1, repeats // 10)))
    yield f"## Words of stability\n\n{STABILITY}\n\n{words_of_stability}"
    yield WHY


def main() -> None:
    """Simulate and write the page."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--repeats", type=int, default=10_000)
    repeats = parser.parse_args().repeats
    started = time.perf_counter()
    parts = list(report(repeats))
    made = (
        f"Made by `python -m tests.benchmarks.simulated_comparisons --repeats {repeats}` on "
        f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d}, in {(time.perf_counter() - started) / 60:.0f} minutes of one "
        f"of {hardware()}."
    )
    page = "\n\n".join([*parts, made]) + "\n"
    Path(__file__).with_suffix(".md").write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
