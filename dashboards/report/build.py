"""Puts a study's report together: what is read of MLflow beside the records, the figures, the page; prints nothing."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dashboards.analysis.strata import Judges, Stratum, standings
from dashboards.figures.figure import Figure, Missing
from dashboards.figures.gallery import figures, first_figures
from dashboards.figures.material import TRL_BETA, Material
from dashboards.figures.over_time import REWARD_MARGIN
from dashboards.report.page import Report, ShownSamples, by_name, render_report
from dashboards.statistics.scale import scale_of
from dashboards.store.histories import Curves, StudySource, load_asked, load_curves, load_samples
from dashboards.tables.comparison import Comparison
from studies.design.counts import pairs_source
from studies.records import RunRecord
from studies.schema.replicates import cell_of
from studies.spec import ResolvedVariant, Study, StudySpec


@dataclass(frozen=True)
class BuiltReport:
    """A report: the page, and the figures by the name of their file."""

    page: str
    figures: Mapping[str, str]


ReadCurves = Callable[[Sequence[str], Sequence[str]], Curves]
"""Gives of the runs of these ids the curves of these names."""


@dataclass(frozen=True)
class Store:
    """Where MLflow keeps the study: its address, and the working folder."""

    uri: str
    folder: Path


def make_report(
    study: Study,
    records: Sequence[RunRecord],
    strata: Sequence[Stratum],
    table: Comparison,
    store: Store | None,
    judges: Judges | None = None,
) -> BuiltReport:
    """The report of a study whose records and table were read from a store, or from a file of records: then it has the
    curves that the records hold, no samples and not the study's text. Of a study with replicates all of them are of
    conditions (see `dashboards.tuned.conditions`), and so are its `judges`. Raises StoreError.
    """
    spec = study.spec
    material = material_of(study, records, strata, table, curves_from(records, store), judges)
    found, first = material.standings, first_figures(material)
    drawn: list[tuple[str, Figure | Missing]] = list(figures(material))
    asked = StudySource("", None) if store is None else load_asked(store.uri, spec.study, store.folder)
    page = render_report(
        Report(
            study=spec.study,
            question=spec.question,
            records=[run for standing in found for run in standing.records],
            table=table,
            gains=first,
            figures=drawn,
            samples=[] if store is None else _told(material, store),
            asked=asked.text,
            page=asked.page,
        )
    )
    return BuiltReport(page, by_name([*first.items(), *drawn]))


def material_of(
    study: Study,
    records: Sequence[RunRecord],
    strata: Sequence[Stratum],
    table: Comparison,
    read_curves: ReadCurves,
    judges: Judges | None = None,
) -> Material:
    """What the figures of a study are drawn from. `read_curves`: of the runs of these ids the metrics of these names;
    the rest as in `make_report`.
    """
    spec = study.spec
    found = standings(records, spec.objective, strata, judges)
    speaking = [run.run_id for standing in found for run in standing.evidence]
    return Material(
        standings=found,
        comparison=table,
        scale=scale_of(spec.objective, pairs_source(spec)),
        noise=kinds_of_noise(spec),
        betas={name: _beta(arm) for name, arm in study.variants.items()},
        curves=read_curves(speaking, list(dict.fromkeys((REWARD_MARGIN, spec.objective.metric, "kl")))),
    )


def curves_from(records: Sequence[RunRecord], store: Store | None) -> ReadCurves:
    """Where curves are read: in the store, or as far as the records themselves hold them."""

    def read(run_ids: Sequence[str], names: Sequence[str]) -> Curves:
        if store is not None:
            return load_curves(store.uri, run_ids, names)
        return {r.run_id: {n: r.curves[n] for n in names if n in r.curves} for r in records if r.run_id in run_ids}

    return read


# What a scenario may say of how much is trained in it, which makes it no other condition.
_AMOUNTS = frozenset({"variants", "trials", "runs", "confirm"})


def kinds_of_noise(spec: StudySpec) -> dict[str, dict[str, float]]:
    """Kind of label noise -> scenario -> share of flipped labels; only scenarios that differ in nothing else.

    A kind is what else such scenarios have in common, "" where that is nothing. Where it is a way to flip, data without
    a flipped label belong to it too.
    """
    found: dict[str, dict[str, float]] = {}
    ways = {""}
    for name, scenario in {cell_of(name).condition: of for name, of in spec.scenarios.items()}.items():
        changed = scenario.model_dump(exclude_defaults=True)
        flip = changed.pop("label_flip", spec.data.label_flip)
        others = {key: value for key, value in changed.items() if key not in _AMOUNTS}
        kind = ", ".join(f"{key} {value}" for key, value in others.items())
        found.setdefault(kind, {})[name] = flip
        ways |= {kind} if all(key.startswith("flip") for key in others) else set()
    plain = {name: flip for name, flip in found.get("", {}).items() if flip == 0.0}
    return {kind: (plain if kind in ways else {}) | flips for kind, flips in found.items() if any(flips.values())}


def _beta(arm: ResolvedVariant) -> float:
    value = arm.settings.get("beta", TRL_BETA)
    return float(value) if isinstance(value, int | float) else TRL_BETA


def _told(material: Material, store: Store) -> list[ShownSamples]:
    """The samples of the run that stands for each loss in each scenario, where it kept some."""
    speaking = [standing.evidence[0] for standing in material.standings if standing.evidence]
    files = {run.run_id: run.samples for run in speaking}
    samples = load_samples(store.uri, list(files), store.folder, files)
    return [
        ShownSamples(
            run.variant, run.scenario, None if material.has_replicates else run.trial, run.run_id, samples[run.run_id]
        )
        for run in speaking
        if samples.get(run.run_id)
    ]
