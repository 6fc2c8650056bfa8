"""Which recorded runs answer what a study file asks now, and why the others do not. Reads no file and no store."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from studies.design.identity import question_of, questions
from studies.design.points import ADAPTIVE, CONFIRM, FIXED, UNBIASED, Config, config_of, config_of_knobs, planned_points
from studies.records import COMMIT, DATA_DIGEST, PROBE, REPLICATE_BLOCKS, RunConfig, RunRecord, RunResult, Scalar, State
from studies.schema.contents import DATED, changed_since, gone, held, sources
from studies.spec import (
    FloatRange,
    IntRange,
    ResolvedVariant,
    Study,
    StudySpec,
    Values,
    in_scenario,
    scenario_data,
)
from studies.text.plural import so_many

Planned = Mapping[str, Collection[Config]]
Record = TypeVar("Record", bound=RunRecord)
Compare = Callable[[Mapping[str, Scalar], RunConfig], str | None]
"""From a run's facts why a run of format 1, which says little of what its sources held, is not of this config; None
where it may be."""


@dataclass(frozen=True)
class Answers(Generic[Record]):
    """Recorded runs sorted. `records`: those that answer the file. `adopted`: those of them that do not say of all
    sources what they held, and are not marked as this study's yet, with the config that they answer. `aside`: reason ->
    the runs that answer something else; `unasked`: those that only blocks, seeds, variants or scenarios would bring
    back that the file does not name, and timed runs of earlier versions. `said`: what there is to say of `records`, in
    sentences.
    """

    records: tuple[Record, ...]
    adopted: tuple[tuple[Record, RunConfig], ...] = ()
    aside: Mapping[str, tuple[Record, ...]] = field(default_factory=dict)
    unasked: tuple[Record, ...] = ()
    said: tuple[str, ...] = ()

    def finished_aside(self) -> dict[str, tuple[Record, ...]]:
        """Of `aside`, the runs that came to an end, good or bad."""
        ended = {reason: tuple(r for r in runs if _is_finished(r)) for reason, runs in self.aside.items()}
        return {reason: runs for reason, runs in ended.items() if runs}

    def notes(self) -> list[str]:
        """What is left aside, a sentence a reason."""
        aside = [
            f"{_runs(len(runs))} left aside: {reason} ({_where(runs)})."
            for reason, runs in self.finished_aside().items()
        ]
        if timed := [run for run in self.unasked if _is_finished(run) and run.phase == PROBE]:
            aside.append(
                f"{_runs(len(timed))} of an earlier version's timing left aside: a step is timed another way now, at "
                "the end of `sweeper run`."
            )
        return [*aside, *self.unasked_notes(), *self.said]

    def unasked_notes(self) -> list[str]:
        """What is said of finished runs that the file does not name, timed ones aside."""
        unasked = [run for run in self.unasked if _is_finished(run) and run.phase != PROBE]
        told = f"{_runs(len(unasked))} left aside: the study file names no such variant, scenario, block or seed"
        return [f"{told} ({_where(unasked)})."] if unasked else []


def sort(
    study: Study,
    records: Iterable[Record],
    compare: Compare | None,
    *,
    asked_before: Callable[[RunRecord], bool] = lambda _record: True,
    strict: bool = False,
) -> Answers[Record]:
    """Sort a study's runs by what the file asks. `spec` has the contents that its sources are said to hold.

    `compare`: how runs of format 1 are looked at (None: they are no answers any more, since a later sweep that looked
    at them did not take them). `asked_before`: whether one of them may have been asked this. `strict`: take none of
    them of whose sources nothing was recorded.
    """
    asked = questions(study)
    wanted = _wanted(study.spec)
    records = tuple(records)
    planned = _planned(study, [record for record in records if record.question is None])
    asked_then = _asked_then(study)
    own, adopted, unasked, aside = [], [], [], dict[str, list[Record]]()
    for record in records:
        place = (record.variant, record.scenario)
        if place not in asked or not wanted(record):
            unasked.append(record)
            continue
        if record.question is not None:
            same = record.question == asked[place]
            changed = _changed(study, record) if not same or "model_name_or_path" in record.knobs else None
            reason = changed or (None if same else _OTHERS)
            if changed is not None and not same and not asked_then(record):
                reason = f"{changed}, and {_OTHERS}"
            if reason is _OTHERS and asked_then(record):
                now = study.run_config(record)
                reason = _reason_unrecorded(record, now, compare, strict)
                if reason is None:
                    adopted.append((record, now))
        else:
            config = _config(study, record, planned) if asked_before(record) else None
            reason = _reason_format_1(study, record, config, compare, strict)
            if reason is None and config is not None:
                adopted.append((record, config))
        if reason is None and _has_another_task(study, record):
            reason = _OTHER_TASKS
        if reason is None:
            own.append(record)
        else:
            aside.setdefault(reason, []).append(record)
    return Answers(tuple(own), tuple(adopted), {r: tuple(runs) for r, runs in aside.items()}, tuple(unasked))


def _planned(study: Study, records: Collection[RunRecord]) -> Planned:
    """By variant the configs that the sampler gives whatever the results are, as many as these runs may be of."""
    spec = study.spec
    most = max((record.trial + 1 for record in records), default=0)
    if not most:
        return {}
    trials = spec.budget.trials if spec.sampler == "grid" else max(spec.budget.trials, most)
    asked = spec.model_copy(update={"budget": spec.budget.model_copy(update={"trials": trials})})
    return {n: {config_of(arm, p.params) for p in planned_points(asked, arm)} for n, arm in study.variants.items()}


def _wanted(spec: StudySpec) -> Callable[[RunRecord], bool]:
    """Whether the file asks for a run's block and seed, in the phase that it belongs to. It asks for no timed runs,
    which earlier versions made.
    """
    asked = set[tuple[str, bool, int, int]]()
    for name in spec.scenarios:
        own = in_scenario(spec, name)
        asked |= {(name, False, b, s) for b in own.runs.blocks for s in own.runs.seeds}
        if own.confirm is not None:
            asked |= {(name, True, b, s) for b in own.confirm.blocks for s in own.confirm.seeds}
    return lambda r: r.phase != PROBE and (r.scenario, r.phase == CONFIRM, r.block, r.seed) in asked


def _config(study: Study, record: RunRecord, planned: Planned) -> RunConfig | None:
    """The config that the file gives such a run; None where it cannot have its knobs."""
    spec = study.spec
    arm = study.variants[record.variant]
    adaptive = spec.mode == "search" or "tpe" in spec.sampler
    if (record.phase == ADAPTIVE and not adaptive) or (record.phase == UNBIASED and spec.sampler == "tpe"):
        return None  # of another sampler
    is_planned = record.phase == UNBIASED or (record.phase == CONFIRM and "tpe" not in spec.sampler)
    if is_planned and spec.mode != "search":
        if config_of_knobs(arm, record.knobs) not in planned[record.variant]:
            return None  # of another range, though this one may hold it too
    elif record.phase != FIXED and not all(_holds(arm, name, value) for name, value in record.knobs.items()):
        return None
    try:
        return study.run_config(record)
    except ValueError:  # weights of another mixture
        return None


def _holds(arm: ResolvedVariant, name: str, value: object) -> bool:
    """Whether the arm's space holds the value of a knob, as far as a range can tell."""
    match arm.space.get(name):
        case FloatRange(low=low, high=high) | IntRange(low=low, high=high):
            return isinstance(value, int | float) and low <= value <= high
        case Values(values=values):
            return value in values
    return True


_OTHER_TASKS = "this version of sweeper gives blocks from 100 on other gold tasks"
_OTHERS = "settings, space, sampler or evaluation of the study file are others now"


def _has_another_task(study: Study, record: RunRecord) -> bool:
    """Whether a run is of a version that knew no replicates, and its block of the embedded world is one of them now."""
    if record.block < REPLICATE_BLOCKS:
        return False
    try:
        return record.key == study.run_config(record).key_of_first_tasks
    except ValueError:  # weights of another mixture
        return False


def _changed(study: Study, record: RunRecord) -> str | None:
    """Which sources of a run hold something else now, or cannot be read; None where all hold the same."""
    spec = study.spec
    settings = {**study.variants[record.variant].settings, **record.knobs}
    data = scenario_data(spec.data, spec.scenarios[record.scenario])
    now, named, before = held(spec.contents, settings, data), sources(settings, data), record.content
    changed = [named[r] for r in named if r in now and before.get(r) not in (None, now[r])]
    missing = [named[r] for r in named if r in before and r not in now and named[r].what != DATED]
    reasons = ([changed_since(changed)] if changed else []) + ([gone(missing)] if missing else [])
    return " and ".join(reasons) or None


def _reason_format_1(
    study: Study,
    record: RunRecord,
    config: RunConfig | None,
    compare: Compare | None,
    strict: bool,
) -> str | None:
    if config is None:
        return _OTHERS
    if record.key not in resolved_before(study, record, config):
        changed = compare(record.facts, config) if compare is not None else None
        return f"{changed}, and {_OTHERS}" if changed else _OTHERS
    if compare is None:
        return "an earlier version of sweeper recorded them, and the last `sweeper run` did not take them over"
    if strict and (unknown := unrecorded(config, record)):
        return f"an earlier version of sweeper recorded them, and not what {' and '.join(unknown)} held"
    return compare(record.facts, config)


def resolved_before(study: Study, record: RunRecord, config: RunConfig) -> Collection[str]:
    """The keys that format 1 gave the run of a config: it pinned no commit."""
    if not study.spec.contents:
        return config.earlier_keys
    return study.holding({}).run_config(record).earlier_keys


def unrecorded(config: RunConfig, run: RunRecord | RunResult) -> list[str]:
    """The sources of a run, of format 1 or of a first sweep without the Hub, whose content cannot be compared, in
    words.
    """
    named = sources(config.settings, config.data)
    known = set[str]() if isinstance(run, RunResult) else set(run.content)
    known |= {"data", "eval_data"} if DATA_DIGEST in run.facts else set()
    unknown = [role for role in config.content if role not in known and role in named]
    pinned = {role for role in unknown if config.content[role] == f"{COMMIT}{named[role].revision}"}
    return [str(named[role]._replace(revision=None) if role in pinned else named[role]) for role in unknown]


def _asked_then(study: Study) -> Callable[[RunRecord], bool]:
    """Whether a run was asked what is asked now, of sources as they were then, of which some may not have been known: a
    commit on the Hub that could not be asked for.
    """
    spec = study.spec
    questions = dict[tuple[str, str, frozenset[str], frozenset[tuple[str, str]]], str]()

    def asked_then(record: RunRecord) -> bool:
        arm = study.variants[record.variant]
        settings, data = {**arm.settings, **record.knobs}, scenario_data(spec.data, spec.scenarios[record.scenario])
        named, now = sources(settings, data), held(spec.contents, settings, data)
        unknown = frozenset(str(named[role]) for role in now if role not in record.content)
        others = frozenset((str(named[r]), c) for r, c in record.content.items() if r in named and c != now.get(r))
        for left in (unknown, frozenset(spec.contents)) if unknown else (unknown,):
            place = (record.variant, record.scenario, left, others)
            if place not in questions:
                known = {source: c for source, c in {**spec.contents, **dict(others)}.items() if source not in left}
                then = spec.model_copy(update={"contents": known})
                questions[place] = question_of(then, record.scenario, arm)
            if questions[place] == record.question:
                return True
        return False

    return asked_then


def _reason_unrecorded(record: RunRecord, config: RunConfig, compare: Compare | None, strict: bool) -> str | None:
    if compare is None:
        return _OTHERS
    if strict and (unknown := unrecorded(config, record)):
        return f"they did not record what {' and '.join(unknown)} held"
    return compare(record.facts, config)


def _is_finished(record: RunRecord) -> bool:
    return record.state in (State.COMPLETE, State.PRUNED)


def leaving(left: Mapping[str, Sequence[RunRecord]]) -> list[str]:
    """What a sweep would leave behind, a sentence a reason."""
    return [f"{_runs(len(runs))} would be left behind: {reason} ({_where(runs)})." for reason, runs in left.items()]


def _runs(number: int) -> str:
    return so_many(number, "finished run")


def _where(records: Sequence[RunRecord]) -> str:
    """The variants that runs belong to, with their numbers."""
    found = Counter(record.variant for record in records)
    return ", ".join(f"{number} {variant}" for variant, number in found.items())
