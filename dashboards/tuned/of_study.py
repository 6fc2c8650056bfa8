"""A study and its records -> the comparison and the answer in each of its conditions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from dashboards.analysis.strata import StratumResults
from dashboards.statistics.compare import Difference
from dashboards.statistics.scale import Scale, scale_of
from dashboards.tuned.amounts import said_of_yours
from dashboards.tuned.answer import Answer, Cost, answer
from dashboards.tuned.by_block import tuned_by_block
from dashboards.tuned.losses import Tuned, tuned
from dashboards.tuned.replicates import Replicate, measure, replicates_of
from dashboards.tuned.samples.contests import WIN_RATES, contests_of
from dashboards.tuned.samples.opinions import second_opinion, tax_of
from dashboards.tuned.yours import Judges, Yours, yours_in
from studies.design.counts import pairs_source
from studies.design.elsewhere import Draw
from studies.design.measurers import opinion_of
from studies.design.points import quota
from studies.records import EMBEDDED, JUDGED, PROBE, Measurer, RunRecord
from studies.samples.kept import KeptScores
from studies.schema.replicates import by_condition, cell_of
from studies.spec import Study, StudySpec
from studies.text.redact import redact


def tuned_of(
    study: Study,
    records: Sequence[RunRecord],
    standings: Sequence[StratumResults],
    differences: Mapping[tuple[str, str], Difference],
    yours: Sequence[RunRecord] = (),
    kept: Mapping[str, KeptScores] = {},
) -> tuple[tuple[Tuned, Answer], ...]:
    """What the study says in each condition. `standings` and `differences`, by (variant, scenario): of a study without
    replicates, which needs little else of its records; `yours`: what was measured of models from elsewhere; `kept`: run
    id -> what judges gave its samples.
    """
    scale = scale_of(study.spec.objective, pairs_source(study.spec))
    cost = Cost(_runs_of_a_replicate(study), _seconds_a_run(records), _instead(study))
    replicated = study.spec.replicates is not None
    found = _replicated(study, records, scale, kept) if replicated else _by_block(study, standings, scale, differences)
    judged = [replace(one, yours=_yours(study, records, yours, one, scale)) for one in found]
    return tuple((one, _told(answer(one, scale.tie_within, cost), one)) for one in judged)


def _told(said: Answer, found: Tuned) -> Answer:
    """The answer with what there is to say of models from elsewhere."""
    return replace(said, sentences=(*said.sentences, *said_of_yours(found, said.use)))


def _yours(
    study: Study, records: Sequence[RunRecord], yours: Sequence[RunRecord], found: Tuned, scale: Scale
) -> tuple[Yours, ...]:
    if not yours:
        return ()
    by_id = {run.run_id: run for run in records}
    gains: dict[str, dict[Draw, list[float]]] = {}
    judges: dict[str, dict[Draw, list[RunRecord]]] = {}
    objective = study.spec.objective
    stopped = _stopped(study, records, scale, found.condition)
    for loss in found.losses:
        for run in (by_id[run_id] for run_id in loss.run_ids) if loss.judged else ():
            draw = Draw(run.scenario, run.block)
            judges.setdefault(loss.variant, {}).setdefault(draw, []).append(run)
            gain = stopped.get(run.run_id, measure(run, objective, scale).end)
            own = gains.setdefault(loss.variant, {}).setdefault(draw, [])
            own += [] if gain is None else [gain]
    of_baseline = judges.get(found.baseline or "", {})
    return yours_in(found.condition, yours, Judges(gains, of_baseline), objective, scale)


def _stopped(study: Study, records: Sequence[RunRecord], scale: Scale, condition: str) -> dict[str, float]:
    """Judging run -> what it gains at the step where it would be stopped, where the objective names a drift."""
    if study.spec.replicates is None:
        return {}
    found = replicates_in(study, records, scale)
    ended = (one for (_, where), of in found.items() if where == condition for one in of)
    return {one.judged.run_id: one.stopped.gain for one in ended if one.judged and one.stopped}


def asks_for_samples(spec: StudySpec) -> bool:
    """Whether what the study says rests on all samples of its judging runs."""
    asked = spec.evaluation.judges.keys() & {"second_judge", "check"}
    return spec.replicates is not None and (spec.objective.metric in WIN_RATES or bool(asked))


def judge_name(spec: StudySpec) -> str | None:
    """Who judges samples of the study, where somebody does."""
    if spec.data.path == EMBEDDED:
        return "the data's own reward"
    return None if spec.evaluation.judge is None else str(redact(spec.evaluation.judge.name))


def _runs_of_a_replicate(study: Study) -> int:
    """Every setting of every variant in every condition, and a judging run each; 0 where a study can have none."""
    if study.spec.mode == "search":
        return 0
    firsts = [names[0] for names in by_condition(study.spec.scenarios).values()]
    own = [study.within(name) for name in firsts]
    return sum(quota(one.spec, variant) + 1 for one in own for variant in one.variants.values())


def _instead(study: Study) -> tuple[str, ...]:
    """What the file says that replicates stand in the place of."""
    spec = study.spec
    if spec.replicates is not None:
        return ()
    has_runs = "blocks" in spec.runs.model_fields_set or len(spec.runs.seeds) > 1
    of_scenarios = [
        f"scenarios.{name}.{key}=null"
        for name, scenario in spec.scenarios.items()
        for key in ("runs", "confirm")
        if getattr(scenario, key) is not None
    ]
    return (*(["confirm=null"] if spec.confirm else []), *(["runs={}"] if has_runs else []), *of_scenarios)


def replicates_in(
    study: Study, records: Sequence[RunRecord], scale: Scale
) -> dict[tuple[str, str], tuple[Replicate, ...]]:
    """(variant, condition) -> its replicates, of a study that has them."""
    return replicates_of(records, study.spec.objective, scale, _points(study))


def _points(study: Study) -> dict[tuple[str, str], int]:
    """(variant, cell) -> how many settings are tried there."""
    return {(v.name, name): quota(own.spec, v) for name, own in study.by_scenario() for v in own.variants.values()}


def _replicated(
    study: Study, records: Sequence[RunRecord], scale: Scale, kept: Mapping[str, KeptScores]
) -> list[Tuned]:
    spec = study.spec
    by_id = {record.run_id: record for record in records}
    meets = {run_id: of for run_id, of in kept.items() if run_id in by_id} if scale.metric in WIN_RATES else {}
    told = sorted((by_id[run_id] for run_id in meets), key=lambda run: not JUDGED & run.metrics.keys())  # those first
    judge = next((run.judged for run in told), Measurer())
    contests = contests_of(records, meets, judge, scale.metric)
    second, check = (
        None if by is None else contests_of(records, kept, by, scale.metric)
        for by in (opinion_of(spec, key) for key in ("second_judge", "check"))
    )
    cells, points = dict(study.by_scenario()), _points(study)
    found = replicates_in(study, records, scale)
    rows = []
    for condition, names in by_condition(cells).items():
        own = cells[names[0]]
        replicates = {name: found.get((name, condition), ()) for name in own.variants}
        one = tuned(
            condition,
            replicates,
            {name: variant.losses for name, variant in own.variants.items()},
            scale,
            baseline=spec.baseline,
            drift=spec.objective.at_drift,
            settings=max((points[v, c] for v, c in points if cell_of(c).condition == condition), default=0),
            planned=spec.replicates or 0,
            contests=contests,
        )
        opinion = None if second is None else second_opinion(one, replicates, second, scale.tie_within)
        tax = None if check is None else tax_of(one, replicates, check)
        rows.append(replace(one, second=opinion, tax=tax, judge=judge.judge or judge_name(spec)))
    return rows


def _by_block(
    study: Study,
    standings: Sequence[StratumResults],
    scale: Scale,
    differences: Mapping[tuple[str, str], Difference],
) -> list[Tuned]:
    spec, rows = study.spec, []
    for scenario in spec.scenarios:
        here = [standing for standing in standings if standing.stratum.scenario == scenario]
        against = {name: of for (name, where), of in differences.items() if where == scenario}
        rows.append(replace(tuned_by_block(here, scale, spec.baseline, against, None), judge=judge_name(spec)))
    return rows


def _seconds_a_run(records: Sequence[RunRecord]) -> float | None:
    """Wall time of the study a run; None below two runs. While a sweep runs, no run ends later after another than the
    longest takes: more is a break between two sweeps, and not counted.
    """
    times = [
        (r.started, r.ended) for r in records if r.started is not None and r.ended is not None and r.phase != PROBE
    ]
    if len(times) < 2:
        return None
    longest = max(ended - started for started, ended in times)
    ends = sorted(ended for _, ended in times)
    marks = [min(started for started, _ in times), *ends]
    return sum(min(later - earlier, longest) for earlier, later in zip(marks, ends, strict=False)) / len(ends)
