"""What others published about the losses, put to the test on finished sweeps: facts 1 to 4 on one of `guide-small` (or
`guide`), fact 5 on one of `pairs`.

    sweeper run guide-small && python -m tests.benchmarks.published_facts [FOLDER]
    sweeper run pairs && python -m tests.benchmarks.published_facts [FOLDER] --study pairs

The signs that are expected come from the papers and not from the sweep; what comes out is printed as it is.

    1  At equal beta and learning rate DPO (sigmoid) does better than SLiC (hinge); at equal KL it does not: the IMDb
       runs of DiscoPOP (arXiv 2406.08414, imdb_results_2.csv in its repository) give +.010 and -.003.
    2  Under flipped labels robust depends least on beta (arXiv 2403.00409).
    3  DiscoPOP fails on part of the range of beta, DPO does not (33 % and 0 % of the same IMDb runs).
    4  From a KL of 1 nat on DPO lowers the likelihood of chosen answers too (arXiv 2410.08847).
    5  Losses made to judge answers without pairs (bco_pair, arXiv 2404.04656; nca_pair, 2402.05369; aot_unpaired,
       2406.05882; apo_zero, 2408.06266) suffer less from pairs dealt at random across prompts than those of a pair's
       difference (sigmoid, ipo): the papers' case for data that are not paired, put to data of which each half is right
       and the pairing is not.
"""

from __future__ import annotations

import argparse
import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from scipy import stats

from dashboards.analysis.confirmed import confirmed_values
from dashboards.analysis.strata import StratumResults, standings
from dashboards.statistics.scale import Scale, scale_of
from dashboards.statistics.stability import failures
from dashboards.store.records import load_records
from studies.design.counts import pairs_source
from studies.records import RunRecord, State
from studies.spec import StudySpec, arms, load_study
from sweeper.recorded.reading import comparison_of, strata

UNBIASED = "unbiased"
PAIRWISE = ("sigmoid", "ipo")
POINTWISE = ("bco_pair", "nca_pair", "aot_unpaired", "apo_zero")

Fact = tuple[str, str, str]
"""What is looked at, what is expected of it, and what was found."""


def mean_and_limits(values: Sequence[float]) -> str:
    """Mean with its 95 % t interval over independent values."""
    if len(values) < 3:
        return f"{np.mean(values):+.3f} (n {len(values)})" if values else "nothing"
    half = float(stats.t.ppf(0.975, len(values) - 1)) * float(np.std(values, ddof=1)) / math.sqrt(len(values))
    return f"{np.mean(values):+.3f} [{np.mean(values) - half:+.3f}, {np.mean(values) + half:+.3f}], n {len(values)}"


def of(records: Sequence[RunRecord], variant: str, scenario: str, arm: str) -> list[RunRecord]:
    """Complete runs of one stratum and arm."""
    return [
        r for r in records if (r.variant, r.scenario, r.arm) == (variant, scenario, arm) and r.state is State.COMPLETE
    ]


def at_equal_beta(records: Sequence[RunRecord], scale: Scale) -> str:
    """sigmoid less hinge at the same points and blocks, a value a point: their mean over blocks."""
    values: dict[int, list[float]] = defaultdict(list)
    hinge = {(r.trial, r.block): scale.value(r) for r in of(records, "hinge", "clean", UNBIASED)}
    for run in of(records, "sigmoid", "clean", UNBIASED):
        mine, other = scale.value(run), hinge.get((run.trial, run.block))
        if mine is not None and other is not None:
            values[run.trial].append(mine - other)
    return mean_and_limits([float(np.mean(v)) for v in values.values()])


def at_equal_kl(records: Sequence[RunRecord], scale: Scale) -> str:
    """sigmoid less hinge in the confirm phase, a value a block: each at its best within the budget of the study."""
    spec = load_study(records[0].study)
    found = {(r.variant, r.budget): r for r in comparison_of(spec, arms(spec), records).at_kl if r.scenario == "clean"}
    lines = []
    for budget in sorted({budget for _, budget in found}):
        hinge = found.get(("hinge", budget))
        compared = hinge.compared if hinge else None
        if compared is not None:
            d = compared.difference
            low, high = d.estimate.low or math.nan, d.estimate.high or math.nan
            lines.append(f"KL {budget:g}: {-d.estimate.value:+.3f} [{-high:+.3f}, {-low:+.3f}], {d.word}")
    return "; ".join(lines) or "nothing"


def slopes(records: Sequence[RunRecord], scale: Scale, scenario: str) -> str:
    """|change of U a tenfold beta|, the learning rate held by regression, a line a loss; failed configs left out."""
    found = {}
    for variant in dict.fromkeys(r.variant for r in records if r.scenario == scenario):
        runs = [r for r in of(records, variant, scenario, UNBIASED) if scale.value(r) is not None]
        if len(runs) < 6:
            continue
        beta, rate = (np.log10([float(r.knobs[name]) for r in runs]) for name in ("beta", "learning_rate"))
        matrix = np.column_stack([np.ones(len(runs)), beta, rate])
        found[variant] = abs(float(np.linalg.lstsq(matrix, np.array([scale.value(r) for r in runs]), rcond=None)[0][1]))
    ranked = sorted(found.items(), key=lambda item: item[1])
    return ", ".join(f"{name} {slope:.3f}" for name, slope in ranked) or "nothing"


def failed(records: Sequence[RunRecord], scale: Scale, variant: str) -> str:
    """Failed configs of the unbiased arm on clean data."""
    share = failures([r for r in records if (r.variant, r.scenario, r.arm) == (variant, "clean", UNBIASED)], scale).all
    return f"{share.k}/{share.n} [{share.low:.0%}, {share.high:.0%}]"


def chosen_shift(records: Sequence[RunRecord]) -> str:
    """Log-ratio of chosen answers over runs of sigmoid with KL 1 or more, a value a config."""
    values: dict[int, list[float]] = defaultdict(list)
    for run in of(records, "sigmoid", "clean", UNBIASED):
        if run.metrics["kl"] >= 1.0:
            values[run.trial].append(run.metrics["chosen_shift"])
    means = [float(np.mean(v)) for v in values.values()]
    return f"{mean_and_limits(means)}; below 0 in {sum(m < 0 for m in means)} of {len(means)}"


def drops(found: Sequence[StratumResults], scale: Scale, there: str, here: str) -> dict[str, dict[int, float]]:
    """Variant -> block -> what its best config of scenario `there` has in the confirm phase over its best of `here`.

    A variant that has no config within the bounds in one of the two is left out: who had nothing cannot lose it.
    """
    values = {(s.stratum.variant, s.stratum.scenario): confirmed_values(s, scale) for s in found}
    lost = {}
    for variant in dict.fromkeys(s.stratum.variant for s in found):
        before, after = values.get((variant, there), {}), values.get((variant, here), {})
        if shared := sorted(before.keys() & after.keys()):
            lost[variant] = {block: before[block] - after[block] for block in shared}
    return lost


def pairwise_over_pointwise(lost: Mapping[str, Mapping[int, float]]) -> str:
    """Mean drop of the pairwise losses less that of the pointwise ones, a value a block that all of them have."""
    missing = [name for name in (*PAIRWISE, *POINTWISE) if name not in lost]
    if missing:
        return f"nothing: {', '.join(missing)} not confirmed in both scenarios"
    blocks = sorted(set.intersection(*(set(lost[name]) for name in (*PAIRWISE, *POINTWISE))))
    return mean_and_limits(
        [
            float(np.mean([lost[name][b] for name in PAIRWISE]) - np.mean([lost[name][b] for name in POINTWISE]))
            for b in blocks
        ]
    )


def kl_used(found: Sequence[StratumResults], variant: str) -> str:
    """Mean KL of the confirm runs that are compared, paired and shuffled: where they differ, so do the configs."""
    kls = {
        s.stratum.scenario: np.mean([run.metrics["kl"] for run in s.speak])
        for s in found
        if s.stratum.variant == variant and s.is_confirmed
    }
    return f"; KL {kls['paired']:.2f} and {kls['shuffled']:.2f}" if kls.keys() >= {"paired", "shuffled"} else ""


def facts_of_pairs(records: Sequence[RunRecord], spec: StudySpec) -> list[Fact]:
    """Fact 5, and what each loss loses, from confirm runs alone."""
    scale = scale_of(spec.objective, pairs_source(spec))
    found = standings(records, spec.objective, strata(spec, arms(spec)))
    lost = drops(found, scale, "paired", "shuffled")
    expected = {**dict.fromkeys(PAIRWISE, "more"), **dict.fromkeys(POINTWISE, "less")}
    return [
        ("5 drop of the pairwise losses less that of the pointwise, U", "above 0", pairwise_over_pointwise(lost)),
        *(
            (
                f"5 {name}, paired less shuffled, U",
                word,
                mean_and_limits([*lost.get(name, {}).values()]) + kl_used(found, name),
            )
            for name, word in expected.items()
        ),
    ]


def facts_of_the_guide(records: Sequence[RunRecord], spec: StudySpec) -> list[Fact]:
    """Facts 1 to 4."""
    scale = scale_of(spec.objective, pairs_source(spec))
    noisy = next((r.scenario for r in records if "flips" in r.scenario), "")
    return [
        ("1 sigmoid less hinge at equal beta, U", "above 0", at_equal_beta(records, scale)),
        ("1 sigmoid less hinge at equal KL, U", "not above 0", at_equal_kl(records, scale)),
        (f"2 |slope| on log10 beta in {noisy}, U", "robust least", slopes(records, scale, noisy)),
        ("3 failed configs of discopop, tau 0.05", "some", failed(records, scale, "discopop")),
        ("3 failed configs of sigmoid", "none", failed(records, scale, "sigmoid")),
        ("4 chosen_shift of sigmoid at KL >= 1, nats", "below 0", chosen_shift(records)),
    ]


def main() -> None:
    """Print what was expected and what was found."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", nargs="?", type=Path, default=Path.cwd())
    parser.add_argument("--study", default="guide-small")
    options = parser.parse_args()
    records = load_records(f"sqlite:///{(options.folder / 'mlflow.db').absolute()}", options.study)
    spec = load_study(options.study)
    facts = facts_of_pairs if "shuffled" in spec.scenarios else facts_of_the_guide
    for what, expected, found in facts(records, spec):
        print(f"{what}  (expected: {expected})\n    {found}")  # noqa: T201


if __name__ == "__main__":
    main()
