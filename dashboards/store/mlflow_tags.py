"""The codec of what MLflow keeps: tags, params and metrics of runs and tags of studies, each writer beside its reader.

Pure: it makes and reads texts and numbers, and calls neither MLflow nor a database.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from pydantic_core import from_json  # in a third of the time of `json.loads`

from dashboards.store.connection import StoreError
from dashboards.store.sqlite_runs import StoredRun
from studies.design.measurers import Measurers, measurers_in, measurers_text, numbers_now
from studies.records import (
    FIRST_EVALUATOR,
    JUDGE_FACT,
    JUDGED,
    MEASURED,
    METRICS,
    Cause,
    Measurement,
    Measurer,
    Numbers,
    RunConfig,
    RunRecord,
    RunResult,
    Scalar,
    State,
)
from studies.text.redact import redact

# MLflow refuses longer tags of a run and an experiment. A message is for a list; the rest is in the run's folder.
LONGEST_MESSAGE, LONGEST_RUN_TAG, LONGEST_STUDY_TAG = 500, 8000, 5000

# Tags of a run. What kind of run it is, what it is called until MLflow has given it an id, and that a later one stands
# in its place; the rest are named like the fields of RunRecord.
KIND, TICKET, SUPERSEDED, QUESTION, CONTENT = "kind", "ticket", "superseded", "question", "content"
SWEEP, RUN = "sweep", "run"  # kinds: the parent of all runs of a study, and its runs
PARENT, SOURCE = "mlflow.parentRunId", {"mlflow.source.name": "sweeper"}
ERRORS, HALVES, CURVES, CURVE_HALVES = "errors", "halves", "curves", "curve_halves"
FACT_PREFIX, NON_FINITE = "fact.", "non_finite"
PLAIN_FACTS = ("message", "adapter", "rung", NON_FINITE)  # tags that are read among the facts
# Who gave a run's numbers, and who its gold, see `RunRecord`; and, with a number behind it, what others found before.
MEASURED_BY, FORMER = "measured", "former"

# Tags of a study's experiment: whose it is, in which format and by which version; what its sources held at the last
# sweep, which questions that asked, and whether runs of an earlier version are left behind that cannot be checked.
MARK_PREFIX = "sweeper."
MARKS = ("id", "owner", "folder", "format", "version")  # the fields of `sweeper.ownership.owner.Mark`
CONTENTS_TAG, QUESTIONS_TAG, STRICT_TAG = "sweeper.contents", "sweeper.questions", "sweeper.strict"
NOTE_TAG = "mlflow.note.content"  # shown above the runs
VIEW, VIEW_TAG = "byvariant", "mlflow.sharedViewState.byvariant"  # a saved view of MLflow's runs page in every study

Point = tuple[int, Mapping[str, float]]
Value = tuple[str, float, int]  # metric, value, step


def mark_tags(marks: Mapping[str, str]) -> dict[str, str]:
    """Whose a study is, as tags of its experiment."""
    return {MARK_PREFIX + name: text for name, text in marks.items()}


def marks_in(tags: Mapping[str, str]) -> dict[str, str]:
    """What `mark_tags` made tags of."""
    return {name: tags[MARK_PREFIX + name] for name in MARKS if MARK_PREFIX + name in tags}


def study_tags(contents: Mapping[str, str], questions: Collection[str], *, strict: bool) -> dict[str, str]:
    """What a sweep keeps of its study. `strict`: from here on no run of format 1 counts of whose sources nothing was
    recorded.
    """
    tags = contents_tags(contents) | _in_pieces(QUESTIONS_TAG, ",".join(sorted(set(questions))))
    return tags | (_in_pieces(STRICT_TAG, "true") if strict else {})


def contents_tags(contents: Mapping[str, str]) -> dict[str, str]:
    """What the sources of a study hold."""
    return _in_pieces(CONTENTS_TAG, json.dumps(dict(contents)))


def contents_in(tags: Mapping[str, str]) -> dict[str, str] | None:
    """What the sources of a study held; None where no sweep has kept it, or what is there cannot be read."""
    try:
        return {str(name): str(text) for name, text in json.loads(_in_whole(tags, CONTENTS_TAG) or "").items()}
    except (ValueError, AttributeError):
        return None


def questions_in(tags: Mapping[str, str]) -> list[str] | None:
    """The questions that the last sweep asked; None where no sweep has kept any."""
    text = _in_whole(tags, QUESTIONS_TAG)
    return None if text is None else text.split(",")


def is_strict(tags: Mapping[str, str]) -> bool:
    """Whether runs are left behind that cannot be checked."""
    return STRICT_TAG in tags


def _in_pieces(name: str, text: str, longest: int = LONGEST_STUDY_TAG) -> dict[str, str]:
    """A text as tags that MLflow takes: `name`, and `name.1`, ... for what does not fit; always one more, empty, at
    which a reader ends whatever a longer text left behind it.
    """
    pieces = [text[i : i + longest] for i in range(0, len(text), longest)] or [""]
    return {f"{name}.{i}" if i else name: piece for i, piece in enumerate([*pieces, ""])}


def run_text(name: str, text: str) -> dict[str, str]:
    """A text as tags of a run that has none of this name yet."""
    return {name: text} if len(text) <= LONGEST_RUN_TAG else _in_pieces(name, text, LONGEST_RUN_TAG)


def _in_whole(tags: Mapping[str, str], name: str) -> str | None:
    """The text that `_in_pieces` made tags of; None where there is none."""
    if name not in tags:
        return None
    text, number = tags[name], 1
    while piece := tags.get(f"{name}.{number}", ""):
        text, number = text + piece, number + 1
    return text


def start_tags(config: RunConfig, attempt: int, phase: str, question: str | None) -> dict[str, str]:
    """What a run in training is, and the question that it answers. `to_record` reads it."""
    return {
        **SOURCE,
        "variant": config.variant,
        "scenario": config.scenario,
        "block": str(config.block),
        "seed": str(config.seed),
        "trial": str(config.trial),
        "attempt": str(attempt),
        "arm": phase,
        "key": config.key,
        "state": State.RUNNING.value,
        "loss": _loss_name(config),
        KIND: RUN,
        **answer_tags(question, config.content),
    }


def answer_tags(question: str | None, content: Mapping[str, str]) -> dict[str, str]:
    """What a run answers, and what its sources held."""
    answers = {QUESTION: question} if question else {}
    return answers | ({CONTENT: json.dumps(dict(content))} if content else {})


def _loss_name(config: RunConfig) -> str:
    """The losses that the run trains with, joined by plus signs."""
    losses = config.settings.get("loss_type", config.variant)
    return losses if isinstance(losses, str) else "+".join(losses)


def run_state(run: StoredRun) -> State:
    """The state of an MLflow run; one that was not closed is RUNNING whatever its tags say."""
    if run.status in ("RUNNING", "SCHEDULED"):
        return State.RUNNING
    return State(run.tags["state"])


def result_tags(result: RunResult) -> dict[str, str]:
    """State, cause, failure, facts and what else MLflow has no place for, without secrets.

    Standard errors go into one tag, and the values on halves of the samples into another: as metrics of their own they
    would double MLflow's charts. Two more have the quality at every evaluation and on its halves: MLflow gives the
    first by a query for each run, the second not at all. Names whose last value was not finite stand in the tag
    `non_finite`: what MLflow holds of them is not how the run ended.
    """
    final = result.final()
    errors = {name: m.error for name, m in final.items() if m.error is not None and math.isfinite(m.error)}
    halves = {name: m.halves for name, m in final.items() if m.halves and all(map(math.isfinite, m.halves))}
    last = {name: value for name, value, _ in sorted(_values(result.curve) + _measured(result), key=lambda v: v[2])}
    non_finite = sorted(name for name, value in last.items() if not math.isfinite(value))
    tags = {"state": result.state.value, "cause": result.cause.value}
    tags |= {"failure": result.failure.value} if result.failure else {}
    tags |= _fact_tags(result.facts)
    tags |= {ERRORS: json.dumps(errors)} if errors else {}
    tags |= {HALVES: json.dumps(halves)} if halves else {}
    for tag, text in _curve_texts(result.measurements).items():
        tags |= run_text(tag, text)
    tags |= {"message": redact(result.message)[:LONGEST_MESSAGE]} if result.message else {}
    tags |= {"adapter": result.adapter} if result.adapter else {}
    tags |= {NON_FINITE: ", ".join(non_finite)} if non_finite else {}
    return tags


def to_record(study: str, run: StoredRun) -> RunRecord:
    """The record of one MLflow run of kind `run`; raises StoreError where its tags make no sense."""
    tags, broken = run.tags, _non_finite(run.tags)
    values = {name: value for name, value in run.metrics.items() if name not in broken}
    facts = _facts(tags)
    try:
        who = _measurers(tags, facts)
        return RunRecord(
            run_id=run.run_id,
            key=tags["key"],
            study=study,
            variant=tags["variant"],
            scenario=tags["scenario"],
            trial=int(tags["trial"]),
            block=int(tags["block"]),
            seed=int(tags["seed"]),
            attempt=int(tags["attempt"]),
            state=run_state(run),
            cause=Cause(tags["cause"]) if "cause" in tags else None,
            phase=tags["arm"],
            knobs={name: decode(text) for name, text in run.params.items()},
            metrics=values,
            errors={name: error for name, error in from_json(tags.get(ERRORS, "{}")).items() if name in values},
            halves={name: halves for name, halves in from_json(tags.get(HALVES, "{}")).items() if name in values},
            curves=from_json(_in_whole(tags, CURVES) or "{}"),
            curve_halves=from_json(_in_whole(tags, CURVE_HALVES) or "{}"),
            facts=facts,
            question=tags.get(QUESTION),
            content=json.loads(tags.get(CONTENT, "{}")),
            measured=who.measured,
            judged=who.judged,
            former=_former(tags),
            started=seconds(run.started),
            ended=seconds(run.ended),
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise StoreError(
            f"The tags of MLflow run {run.run_id} ({run.name}) cannot be read: {error}. Tags that "
            "`sweeper run` wrote must stay as they were; delete this run in MLflow and run the study again."
        ) from error


def _fact_tags(facts: Mapping[str, Scalar]) -> dict[str, str]:
    return {FACT_PREFIX + name: encode(value) for name, value in redact(facts).items()}


def _facts(tags: Mapping[str, str]) -> dict[str, str]:
    facts = {name[len(FACT_PREFIX) :]: text for name, text in tags.items() if name.startswith(FACT_PREFIX)}
    return facts | {name: tags[name] for name in PLAIN_FACTS if name in tags}


def _non_finite(tags: Mapping[str, str]) -> set[str]:
    """Names of what MLflow holds of a run and how it did not end."""
    return {name for name in tags.get(NON_FINITE, "").split(", ") if name}


def seconds(milliseconds: int | None) -> float | None:
    """MLflow's time as seconds since 1970."""
    return None if milliseconds is None else milliseconds / 1000


def encode(value: Scalar) -> str:
    """A knob as the text of an MLflow parameter: as people write it, quoted only where text looks like a number."""
    return value if isinstance(value, str) and decode(value) == value else json.dumps(value)


def decode(text: str) -> Scalar:
    """The knob that `encode` wrote as `text`."""
    try:
        value: Scalar = json.loads(text)
    except ValueError:
        return text
    return value


def curve_values(points: Sequence[Point]) -> list[Value]:
    """The finite values of a curve: MLflow would show others as 1.8e308."""
    return _finite(_values(points))


def measured_values(result: RunResult) -> list[Value]:
    """The finite measurements of a result.

    What was measured once gets step 0, whatever its step: MLflow then draws bars to compare runs by, where it would
    draw a line chart of one dot each.
    """
    return _finite(_measured(result))


def _values(points: Sequence[Point]) -> list[Value]:
    return [(name, value, step) for step, values in points for name, value in values.items()]


def _measured(result: RunResult) -> list[Value]:
    names = [m.name for m in result.measurements] + [name for _, values in result.curve for name in values]
    times = Counter(names)
    return [(m.name, m.value, m.step if times[m.name] > 1 else 0) for m in result.measurements]


def _finite(values: Sequence[Value]) -> list[Value]:
    return [value for value in values if math.isfinite(value[1])]


# What the objective is read at with `at_drift`, and what a user who stops there gets beside it.
_ON_THE_WAY = frozenset({"kl", "length_ratio"})


def _curve_texts(measurements: Sequence[Measurement]) -> dict[str, str]:
    """What more of is better and what it is read at, where it was measured at several steps, and halves of the former:
    five digits of each, by the name of its tag.
    """
    of: dict[str, list[Measurement]] = {}
    for m in sorted(measurements, key=lambda m: m.step):
        told = m.name in METRICS and (METRICS[m.name].better == "maximize" or m.name in _ON_THE_WAY)
        if told and math.isfinite(m.value):
            of.setdefault(m.name, []).append(m)
    several = {name: points for name, points in of.items() if len(points) > 1}
    curves = {name: [(m.step, _short(m.value)) for m in points] for name, points in several.items()}
    halves = {
        name: [(m.step, *map(_short, m.halves)) for m in points if m.halves]
        for name, points in several.items()
        if name not in _ON_THE_WAY and all(m.halves and all(map(math.isfinite, m.halves)) for m in points)
    }
    return {tag: json.dumps(found) for tag, found in ((CURVES, curves), (CURVE_HALVES, halves)) if found}


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def measurer_tag(who: Measurers) -> dict[str, str]:
    """Who measured a run."""
    return {MEASURED_BY: measurers_text(who)}


def _measurers(tags: Mapping[str, str], facts: Mapping[str, str]) -> Measurers:
    """Who gave a run's numbers and its gold. Format 1 did not say: it had one evaluator, and told the judge's name."""
    if MEASURED_BY in tags:
        return measurers_in(tags[MEASURED_BY])
    first = Measurer(evaluator=FIRST_EVALUATOR)
    return Measurers(first, first.model_copy(update={"judge": facts.get(JUDGE_FACT)}))


def score_tags(
    record: RunRecord,
    measurements: Sequence[Measurement],
    facts: Mapping[str, Scalar],
    who: Measurers,
    samples: str,
) -> dict[str, str]:
    """What changes in the tags of a run with measurements that were made after it had ended; all of them finite.

    What was found before of what is measured again (gold, or all else) goes into tags of its own, with who had found
    it. `samples`: the artifact that keeps its samples from here on.
    """
    curves, final = _curve_texts(measurements), {m.name: m for m in sorted(measurements, key=lambda m: m.step)}
    names, measurements, parts = final.keys(), list(final.values()), _parts(final)
    replaced = frozenset[str]().union(*(JUDGED if gold else MEASURED - JUDGED for gold in parts))
    errors = {m.name: m.error for m in measurements if m.error is not None}
    halves = {m.name: m.halves for m in measurements if m.halves}
    lost = sorted((replaced & record.metrics.keys()) - names | _non_finite(record.facts) - names)
    tags = _fact_tags(facts)
    for number, numbers in enumerate(replaced_by(record, measurements), start=len(record.former)):
        tags |= former_tags(number, numbers.model_copy(update={"samples": samples}))
    for tag, before in ((CURVES, record.curves), (CURVE_HALVES, record.curve_halves)):
        left = _others(before, replaced) | json.loads(curves.get(tag, "{}"))
        tags |= _in_pieces(tag, json.dumps(left), LONGEST_RUN_TAG) if before or left else {}
    tags |= {ERRORS: json.dumps(_others(record.errors, replaced) | errors)}
    tags |= {HALVES: json.dumps(_others(record.halves, replaced) | halves)}
    tags |= {NON_FINITE: ", ".join(lost)} if lost or _non_finite(record.facts) else {}
    measured = who.measured if False in parts else record.measured
    return tags | measurer_tag(Measurers(measured, who.judged if True in parts else record.judged))


def replaced_by(record: RunRecord, measurements: Sequence[Measurement]) -> list[Numbers]:
    """What was found of a run before that such measurements take the place of."""
    parts = _parts({m.name for m in measurements})
    return [numbers for gold in parts if (numbers := numbers_now(record, gold=gold)).metrics]


def _parts(names: Collection[str]) -> list[bool]:
    """Which parts of a run's numbers metrics belong to, see `Numbers.gold`."""
    return [gold for gold in (False, True) if not (JUDGED if gold else MEASURED - JUDGED).isdisjoint(names)]


def former_tags(number: int, numbers: Numbers) -> dict[str, str]:
    """What one measurer found, its curves in tags of their own."""
    whole, tags = numbers.model_dump(mode="json", exclude_none=True), dict[str, str]()
    for part in (CURVES, CURVE_HALVES):
        tags |= run_text(former_tag(number, part), json.dumps(whole.pop(part))) if part in whole else {}
    return tags | {former_tag(number): json.dumps(whole)}


def _former(tags: Mapping[str, str]) -> tuple[Numbers, ...]:
    found: list[Numbers] = []
    while (name := former_tag(len(found))) in tags:
        of = {part: _in_whole(tags, former_tag(len(found), part)) for part in (CURVES, CURVE_HALVES)}
        parts = {part: json.loads(text or "{}") for part, text in of.items()}
        found.append(Numbers.model_validate(json.loads(tags[name]) | parts))
    return tuple(found)


def former_tag(number: int, part: str = "") -> str:
    """The tag of what a run's measurer of that number had found; `part`: one that may be long, in a tag of its own."""
    return f"{FORMER}.{number}" + (f".{part}" if part else "")


def _others(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}
