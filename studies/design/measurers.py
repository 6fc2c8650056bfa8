"""Who measured runs, and which of their numbers may stand beside each other. Reads no file and no store.

A run keeps what every evaluator and judge found of it. Here one of each is chosen, and runs are seen under these alone.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, TypeVar

from studies.design.points import CONFIRM
from studies.records import (
    EVALUATOR_FACT,
    FIRST_EVALUATOR,
    JUDGE_CONTENT_FACT,
    JUDGE_FACT,
    JUDGED,
    MEASURED,
    PROBE,
    EvaluationConfig,
    Measurement,
    Measurer,
    Numbers,
    RunConfig,
    RunRecord,
    RunResult,
    State,
)
from studies.schema.contents import held_by_judge, held_by_opinions
from studies.schema.replicates import cell_of
from studies.spec import StudySpec
from studies.text.plural import so_many
from studies.text.redact import redact

Record = TypeVar("Record", bound=RunRecord)
_BUT_GOLD = MEASURED - JUDGED
# What a run says of its gold beside the number.
_GOLD_FACTS = (JUDGE_FACT, JUDGE_CONTENT_FACT, "reference_gold")
# Of a run that the chosen evaluator did not measure: how it failed stays as it was found, and drift is read off this.
_KEPT = "length_ratio"


@dataclass(frozen=True)
class Measurers:
    """Who gives all numbers but gold, and who gives gold."""

    measured: Measurer
    judged: Measurer


def measurers_text(who: Measurers) -> str:
    """Who measures, as it is kept."""
    parts = {"measured": who.measured, "judged": who.judged}
    return json.dumps({name: by.model_dump(exclude_none=True) for name, by in parts.items()})


@lru_cache(maxsize=64)
def measurers_in(text: str) -> Measurers:
    """What `measurers_text` made a text of. Remembered, since nearly all runs of a study say the same. Raises
    ValueError, KeyError and TypeError.
    """
    told = json.loads(text)
    return Measurers(Measurer.model_validate(told["measured"]), Measurer.model_validate(told["judged"]))


def asked_of(spec: StudySpec) -> Measurers:
    """Who measures the runs of the study now: this version's evaluator, and the file's judge as `spec` knows it."""
    return _measurers(spec.evaluation, held_by_judge(spec.contents, spec.evaluation), Measurer())


def measurers_of(config: RunConfig) -> Measurers:
    """Who measures such a run when it is trained, or measured again."""
    return _measurers(config.evaluation, config.judge_content, Measurer(evaluator=config.evaluator))


def _measurers(evaluation: EvaluationConfig, content: str | None, measured: Measurer) -> Measurers:
    judge = evaluation.judge
    name = None if judge is None else str(redact(judge.name))
    return Measurers(measured, measured.model_copy(update={"judge": name, "content": content}))


def judge_at(config: RunConfig, key: str) -> Measurer:
    """Who looks at the samples of such a run: `judge`, `second_judge` or `check`, as a study file calls them."""
    content = config.judge_content if key == "judge" else config.opinions.get(key)
    name = str(redact(config.evaluation.judges[key].name))
    return Measurer(evaluator=config.evaluator, judge=name, content=content)


def opinion_of(spec: StudySpec, key: str) -> Measurer | None:
    """The second judge of a study, or its check, as it is known now; None where it has none."""
    judge = spec.evaluation.judges.get(key)
    if judge is None:
        return None
    return Measurer(judge=str(redact(judge.name)), content=held_by_opinions(spec.contents, spec.evaluation).get(key))


def told_by(result: RunResult, judge: Measurer) -> Measurers:
    """Who measured a result, as it says itself. Format 1 named neither its evaluator nor what a judge held, which is
    taken to be what `judge` of that name holds.
    """
    told = {name: str(value) for name, value in redact(result.facts).items()}
    measured = Measurer(evaluator=told.get(EVALUATOR_FACT, FIRST_EVALUATOR))
    by = {"judge": told.get(JUDGE_FACT), "content": told.get(JUDGE_CONTENT_FACT)}
    return Measurers(measured, _settle(measured.model_copy(update=by), judge))


def named_measurers(who: Measurers) -> str:
    """Who measures, in words."""
    judge = who.judged.judge
    return who.measured.evaluator + (f" and {judge}" if judge is not None else "")


# ---- a run under its measurers ------------------------------------------------------------------------------------


def numbers_now(record: RunRecord, *, gold: bool) -> Numbers:
    """What was found last of a run: its gold, or all else."""
    names = JUDGED if gold else _BUT_GOLD
    parts: dict[str, Mapping[str, Any]] = {
        part: {name: value for name, value in getattr(record, part).items() if name in names}
        for part in ("metrics", "errors", "halves", "curves", "curve_halves")
    }
    facts = {name: record.facts[name] for name in _GOLD_FACTS if name in record.facts} if gold else {}
    by = record.judged if gold else record.measured
    return Numbers(by=by, gold=gold, facts=facts, samples=record.samples, **parts)


def is_measured(record: RunRecord, who: Measurers) -> bool:
    """Whether these measurers have found all of a run that they would: gold too, where there is a judge."""
    return has_numbers(record, who.measured, gold=False) and (
        who.judged.judge is None or has_numbers(record, who.judged, gold=True)
    )


def has_numbers(record: RunRecord, by: Measurer, *, gold: bool) -> bool:
    """Whether a measurer found anything of a run, now or before another did."""
    return _found(record, by, gold=gold) is not None


def _found(record: RunRecord, by: Measurer, *, gold: bool) -> Numbers | None:
    if (record.judged if gold else record.measured) == by and (now := numbers_now(record, gold=gold)).metrics:
        return now
    return next((n for n in reversed(record.former) if n.gold is gold and n.by == by and n.metrics), None)


def settled(records: Iterable[Record], judge: Measurer) -> list[Record]:
    """The records, a judge of which only the name is known taken for the one of that name."""

    found = []
    for record in records:
        judged = _settle(record.judged, judge)
        former = tuple(n.model_copy(update={"by": _settle(n.by, judge)}) for n in record.former)
        same = judged == record.judged and former == record.former
        found.append(record if same else record.model_copy(update={"judged": judged, "former": former}))
    return found


def is_unsettled(record: RunRecord, judge: Measurer) -> bool:
    """Whether a run has gold by a judge of this name of which nobody has said whether it held the same."""
    return bool(judge.content and JUDGED & record.metrics.keys() and _settle(record.judged, judge) != record.judged)


def _settle(by: Measurer, judge: Measurer) -> Measurer:
    same = by.content is None and by.judge is not None and by.judge == judge.judge
    return by.model_copy(update={"content": judge.content}) if same else by


def under(record: Record, who: Measurers) -> Record:
    """The run with the numbers that these measurers found of it, and none of others."""
    own_gold = record.judged == who.judged or not JUDGED & record.metrics.keys()
    if record.measured == who.measured and own_gold and not record.former:
        return record
    measured, judged = _found(record, who.measured, gold=False), _found(record, who.judged, gold=True)
    parts: dict[str, Any] = {}
    for part in ("metrics", "errors", "halves", "curves", "curve_halves"):
        parts[part] = {name: value for name, value in getattr(record, part).items() if name not in MEASURED}
        for numbers in (measured, judged):
            parts[part] |= {} if numbers is None else getattr(numbers, part)
    if measured is None and _KEPT in record.metrics:
        parts["metrics"][_KEPT] = record.metrics[_KEPT]
    facts = {name: value for name, value in record.facts.items() if name not in _GOLD_FACTS}
    shown = judged or measured
    return record.model_copy(
        update={
            **parts,
            "measured": who.measured,
            "judged": who.judged,
            "facts": facts | dict(judged.facts if judged else {}),
            "samples": shown.samples if shown else record.samples,
        }
    )


def counted(result: RunResult, by: Measurers, who: Measurers) -> RunResult:
    """A result that `by` measured, without the numbers that `who` would not have given it."""
    dropped = (JUDGED if by.judged != who.judged else frozenset[str]()) | (
        MEASURED if by.measured != who.measured else frozenset[str]()
    )
    kept = tuple(m for m in result.measurements if m.name not in dropped)
    return result if len(kept) == len(result.measurements) else result.model_copy(update={"measurements": kept})


def measured_as(result: RunResult, record: RunRecord) -> RunResult:
    """A result as it was kept when its run was trained, with the numbers that the record has of it now."""
    final = {n: m.value for n, m in result.final().items() if n in MEASURED and math.isfinite(m.value)}
    now = {name: value for name, value in record.metrics.items() if name in MEASURED}
    if final == now:
        return result
    kept = tuple(m for m in result.measurements if m.name not in MEASURED)
    step = max((m.step for m in result.measurements), default=0)
    new = (Measurement(n, v, record.errors.get(n), step, record.halves.get(n)) for n, v in now.items())
    return result.model_copy(update={"measurements": (*kept, *new)})


# ---- which measurers runs are compared under ----------------------------------------------------------------------


def chosen(records: Iterable[RunRecord], asked: Measurers) -> Measurers:
    """Under whom runs are compared: those that are asked, where at least as many finished runs have numbers of theirs
    as of any other's, else those of whom most have.
    """
    finished = [record for record in records if _is_compared(record)]
    # A replicate speaks by the run that judged it alone, and a judge that comes later has seen the samples of no other.
    finished = [run for run in finished if run.phase == CONFIRM and cell_of(run.scenario).number] or finished
    measured = _most(Counter(by for run in finished for by in _who(run, gold=False)), asked.measured)
    judges = _judges(finished, measured)
    return Measurers(measured, _most(judges, _asked_judge(asked, measured, judges)))


def _judges(records: Iterable[RunRecord], measured: Measurer) -> Counter[Measurer]:
    """Who gave gold of runs that this evaluator measured, and of how many."""
    return Counter(by for run in records for by in _who(run, gold=True) if by.evaluator == measured.evaluator)


def _asked_judge(asked: Measurers, measured: Measurer, judges: Counter[Measurer]) -> Measurer:
    """The judge that is asked, with this evaluator. Where nobody has said what it holds: the one of its name that most
    runs have.
    """
    judge = asked.judged.model_copy(update={"evaluator": measured.evaluator})
    if judge.judge is None or judge.content is not None:
        return judge
    return next((by for by, _ in judges.most_common() if by.judge == judge.judge), judge)


def _most(counts: Counter[Measurer], asked: Measurer) -> Measurer:
    (most, number), *_ = counts.most_common(1) or [(asked, 0)]
    return asked if counts[asked] >= number else most


def _who(record: RunRecord, *, gold: bool) -> list[Measurer]:
    """All who found numbers of a run, the last first."""
    now = record.judged if gold else record.measured
    found = [] if (JUDGED if gold else _BUT_GOLD).isdisjoint(record.metrics) else [now]
    if not record.former:  # as nearly all: this is asked of every run several times
        return found
    found += [n.by for n in reversed(record.former) if n.gold is gold and n.metrics]
    return list(dict.fromkeys(found))


def _is_compared(record: RunRecord) -> bool:
    return record.state is State.COMPLETE and record.phase != PROBE


_REMEDY = "`sweeper run` measures again what keeps an adapter, as every run does with output: {keep: all}."


def left_out(records: Iterable[RunRecord], asked: Measurers, who: Measurers) -> list[str]:
    """What is said of runs compared under `who`: that others were asked, and which runs have no such numbers."""
    finished = [record for record in records if _is_compared(record) and _who(record, gold=False)]
    has, others = _parted(finished, who.measured, gold=False)
    found = []
    if who.measured != asked.measured:
        new = sum(asked.measured in _who(record, gold=False) for record in finished)
        found.append(
            f"Measured by {who.measured.evaluator}, as {len(has)} of "
            f"{so_many(len(finished), 'finished run', 'was', 'were')}; "
            f"{asked.measured.evaluator}, which this version has, measured {new}. {_REMEDY}"
        )
    elif others:
        names = dict.fromkeys(by.evaluator for run in others for by in _who(run, gold=False))
        found.append(
            f"No number is compared of {_named(others)} that {' and '.join(names)} measured, and not "
            f"{who.measured.evaluator} as the others. {_REMEDY}"
        )
    return found + _left_out_of_gold(has, _asked_judge(asked, who.measured, _judges(has, who.measured)), who.judged)


def _left_out_of_gold(records: Sequence[RunRecord], wanted: Measurer, judge: Measurer) -> list[str]:
    has, others = _parted(records, judge, gold=True)
    if wanted.judge is not None and wanted != judge:
        new = sum(wanted in _who(record, gold=True) for record in records)
        now = f"{wanted.judge} as it is now" if wanted.judge == judge.judge else wanted.judge
        return [
            f"Gold is by {_judge_name(judge, wanted)}, as {len(has)} of "
            f"{so_many(len(records), 'finished run', 'has', 'have')} it; "
            f"{new} {'has' if new == 1 else 'have'} it by {now}, which the study asks. {_REMEDY}"
        ]
    if not others or (not has and wanted.judge is None):
        return []
    names = dict.fromkeys(_judge_name(by, judge) for run in others for by in _who(run, gold=True))
    own = f", but by {' and '.join(names)}" if names else ""
    return [f"Gold is compared without {_named(others)} that have none by {_judge_name(judge)}{own}. {_REMEDY}"]


def _parted(records: Iterable[RunRecord], by: Measurer, *, gold: bool) -> tuple[list[RunRecord], list[RunRecord]]:
    """The runs that a measurer found numbers of, and the others."""
    parts: tuple[list[RunRecord], list[RunRecord]] = ([], [])
    for record in records:
        parts[by not in _who(record, gold=gold)].append(record)
    return parts


def _judge_name(by: Measurer, now: Measurer | None = None) -> str:
    """A judge in words; one that has the name of another is what this was earlier."""
    if by.judge is None:
        return "the data's own reward"
    is_earlier = now is not None and by.judge == now.judge and by.content != now.content
    return f"{by.judge} as it was earlier" if is_earlier else by.judge


def _named(records: Sequence[RunRecord]) -> str:
    where = ", ".join(f"{number} {variant}" for variant, number in Counter(r.variant for r in records).items())
    return f"{so_many(len(records), 'finished run')} ({where})"
