"""A result as MLflow keeps it: metrics by name and step, and tags; knows no MLflow."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from dashboards.store.connection import StoreError
from dashboards.store.sqlite_runs import StoredRun
from studies.design.measurers import Measurers, numbers_now
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
    RunRecord,
    RunResult,
    Scalar,
    State,
)
from studies.text.redact import redact

# MLflow refuses tags above 8000 characters; a message is for reading in a list, the rest is in the run's folder.
LONGEST_MESSAGE, LONGEST_TAG = 500, 8000

Point = tuple[int, Mapping[str, float]]
Value = tuple[str, float, int]  # metric, value, step


def curve_values(points: Sequence[Point]) -> list[Value]:
    """The finite values of a curve: MLflow would show others as 1.8e308."""
    return _finite(_values(points))


def measured_values(result: RunResult) -> list[Value]:
    """The finite measurements of a result.

    What was measured once gets step 0, whatever its step: MLflow then draws bars to compare runs by, where it would
    draw a line chart of one dot each.
    """
    return _finite(_measured(result))


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
    tags |= {FACT_PREFIX + name: encode(value) for name, value in redact(result.facts).items()}
    tags |= {ERRORS: json.dumps(errors)} if errors else {}
    tags |= {HALVES: json.dumps(halves)} if halves else {}
    tags |= _curve_tags(result)
    tags |= {"message": redact(result.message)[:LONGEST_MESSAGE]} if result.message else {}
    tags |= {"adapter": result.adapter} if result.adapter else {}
    tags |= {NON_FINITE: ", ".join(non_finite)} if non_finite else {}
    return tags


def measurer_tag(who: Measurers) -> dict[str, str]:
    """Who measured a run."""
    parts = {"measured": who.measured, "judged": who.judged}
    return {MEASURED_BY: json.dumps({name: by.model_dump(exclude_none=True) for name, by in parts.items()})}


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
    names = {m.name for m in measurements}
    parts = _parts(names)
    replaced = frozenset[str]().union(*(JUDGED if gold else MEASURED - JUDGED for gold in parts))
    errors = {m.name: m.error for m in measurements if m.error is not None}
    halves = {m.name: m.halves for m in measurements if m.halves}
    lost = sorted((replaced & record.metrics.keys()) - names | _non_finite(record) - names)
    by = Measurers(who.measured if False in parts else record.measured, who.judged if True in parts else record.judged)
    tags = {FACT_PREFIX + name: encode(value) for name, value in redact(facts).items()}
    for number, numbers in enumerate(replaced_by(record, measurements), start=len(record.former)):
        tags |= _former_tags(number, numbers.model_copy(update={"samples": samples}))
    for tag, before in ((CURVES, record.curves), (CURVE_HALVES, record.curve_halves)):
        left = {name: points for name, points in before.items() if name not in replaced}
        tags |= {tag: json.dumps(left)} if before else {}
    tags |= {ERRORS: json.dumps(_others(record.errors, replaced) | errors)}
    tags |= {HALVES: json.dumps(_others(record.halves, replaced) | halves)}
    tags |= {NON_FINITE: ", ".join(lost)} if lost or _non_finite(record) else {}
    return tags | measurer_tag(by)


def replaced_by(record: RunRecord, measurements: Sequence[Measurement]) -> list[Numbers]:
    """What was found of a run before that such measurements take the place of."""
    parts = _parts({m.name for m in measurements})
    return [numbers for gold in parts if (numbers := numbers_now(record, gold=gold)).metrics]


def _parts(names: Collection[str]) -> list[bool]:
    """Which parts of a run's numbers metrics belong to, see `Numbers.gold`."""
    return [gold for gold in (False, True) if not (JUDGED if gold else MEASURED - JUDGED).isdisjoint(names)]


def _former_tags(number: int, numbers: Numbers) -> dict[str, str]:
    """What one measurer found, in up to three tags: MLflow cuts longer ones off."""
    whole = numbers.model_dump(mode="json", exclude_none=True)
    long = {part: whole.pop(part) for part in (CURVES, CURVE_HALVES) if part in whole}
    return {former_tag(number): json.dumps(whole)} | {
        former_tag(number, part): json.dumps(points) for part, points in long.items()
    }


def _others(values: Mapping[str, Any], names: Collection[str]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if name not in names}


def _non_finite(record: RunRecord) -> set[str]:
    """Names of what MLflow holds of a run and how it did not end."""
    return {name for name in record.facts.get(NON_FINITE, "").split(", ") if name}


def _values(points: Sequence[Point]) -> list[Value]:
    return [(name, value, step) for step, values in points for name, value in values.items()]


def _measured(result: RunResult) -> list[Value]:
    names = [m.name for m in result.measurements] + [name for _, values in result.curve for name in values]
    times = Counter(names)
    return [(m.name, m.value, m.step if times[m.name] > 1 else 0) for m in result.measurements]


def _curve_tags(result: RunResult) -> dict[str, str]:
    """What more of is better, where it was measured at several steps, and its halves: five digits of each.

    A curve that is too long for a tag is left out.
    """
    of: dict[str, list[Measurement]] = {}
    for m in sorted(result.measurements, key=lambda m: m.step):
        if m.name in METRICS and METRICS[m.name].better == "maximize" and math.isfinite(m.value):
            of.setdefault(m.name, []).append(m)
    several = {name: points for name, points in of.items() if len(points) > 1}
    curves = {name: [(m.step, _short(m.value)) for m in points] for name, points in several.items()}
    halves = {
        name: [(m.step, *map(_short, m.halves)) for m in points if m.halves]
        for name, points in several.items()
        if all(m.halves and all(map(math.isfinite, m.halves)) for m in points)
    }
    texts = {tag: json.dumps(found) for tag, found in ((CURVES, curves), (CURVE_HALVES, halves)) if found}
    return {tag: text for tag, text in texts.items() if len(text) <= LONGEST_TAG}


def _short(value: float) -> float:
    return float(f"{value:.5g}")


def _finite(values: Sequence[Value]) -> list[Value]:
    return [value for value in values if math.isfinite(value[1])]


KIND = "kind"


SWEEP, RUN = "sweep", "run"


SUPERSEDED = "superseded"


ERRORS = "errors"


HALVES = "halves"


QUESTION, CONTENT = "question", "content"


# Tags of a study's experiment: what its sources held at the last sweep, which questions that asked, and whether runs of
# an earlier version are left behind that cannot be checked.
CONTENTS_TAG, QUESTIONS_TAG, STRICT_TAG = "sweeper.contents", "sweeper.questions", "sweeper.strict"


# Who gave a run's numbers, and who its gold, see `RunRecord`; and, with a number behind it, what others found before.
MEASURED_BY, FORMER = "measured", "former"


CURVES = "curves"


CURVE_HALVES = "curve_halves"


FACT_PREFIX = "fact."


# Tags that say something of a run beyond the fields of RunRecord; `load_records` puts them among its facts.
NON_FINITE = "non_finite"


PLAIN_FACTS = ("message", "adapter", "rung", NON_FINITE)


def in_pieces(name: str, text: str, longest: int) -> dict[str, str]:
    """A text as tags that MLflow takes: `name`, and `name.1`, ... for what does not fit; always one more, empty, at
    which a reader ends whatever a longer text left behind it.
    """
    pieces = [text[i : i + longest] for i in range(0, len(text), longest)] or [""]
    return {f"{name}.{i}" if i else name: piece for i, piece in enumerate([*pieces, ""])}


def in_whole(tags: Mapping[str, str], name: str) -> str | None:
    """The text that `in_pieces` made tags of; None where there is none."""
    if name not in tags:
        return None
    text, number = tags[name], 1
    while piece := tags.get(f"{name}.{number}", ""):
        text, number = text + piece, number + 1
    return text


def run_state(run: StoredRun) -> State:
    """The state of an MLflow run; one that was not closed is RUNNING whatever its tags say."""
    if run.status in ("RUNNING", "SCHEDULED"):
        return State.RUNNING
    return State(run.tags["state"])


def to_record(study: str, run: StoredRun) -> RunRecord:
    """The record of one MLflow run of kind `run`; raises StoreError where its tags make no sense."""
    tags = run.tags
    ended_non_finite = tags.get(NON_FINITE, "").split(", ")
    values = {name: value for name, value in run.metrics.items() if name not in ended_non_finite}
    facts = {k.removeprefix(FACT_PREFIX): v for k, v in tags.items() if k.startswith(FACT_PREFIX)}
    try:
        measurers = _measurers(tags, facts)
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
            arm=tags["arm"],
            knobs={name: decode(text) for name, text in run.params.items()},
            metrics=values,
            errors={name: error for name, error in json.loads(tags.get(ERRORS, "{}")).items() if name in values},
            halves={name: halves for name, halves in json.loads(tags.get(HALVES, "{}")).items() if name in values},
            curves=json.loads(tags.get(CURVES, "{}")),
            curve_halves=json.loads(tags.get(CURVE_HALVES, "{}")),
            facts=facts | {name: tags[name] for name in PLAIN_FACTS if name in tags},
            question=tags.get(QUESTION),
            content=json.loads(tags.get(CONTENT, "{}")),
            measured=measurers[0],
            judged=measurers[1],
            former=_former(tags),
            started=seconds(run.started),
            ended=seconds(run.ended),
        )
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise StoreError(
            f"The tags of MLflow run {run.run_id} ({run.name}) cannot be read: {error}. Tags that "
            "`sweeper run` wrote must stay as they were; delete this run in MLflow and run the study again."
        ) from error


def _measurers(tags: Mapping[str, str], facts: Mapping[str, str]) -> tuple[Measurer, Measurer]:
    """Who gave a run's numbers and its gold. Format 1 did not say: it had one evaluator, and told the judge's name."""
    if MEASURED_BY in tags:
        told = json.loads(tags[MEASURED_BY])
        return Measurer.model_validate(told["measured"]), Measurer.model_validate(told["judged"])
    first = Measurer(evaluator=FIRST_EVALUATOR)
    return first, first.model_copy(update={"judge": facts.get(JUDGE_FACT)})


def former_tag(number: int, part: str = "") -> str:
    """The tag of what a run's measurer of that number had found; `part`: one that may be long, in a tag of its own."""
    return f"{FORMER}.{number}" + (f".{part}" if part else "")


def _former(tags: Mapping[str, str]) -> tuple[Numbers, ...]:
    found: list[Numbers] = []
    while (name := former_tag(len(found))) in tags:
        parts = {part: json.loads(tags.get(former_tag(len(found), part), "{}")) for part in (CURVES, CURVE_HALVES)}
        found.append(Numbers.model_validate(json.loads(tags[name]) | parts))
    return tuple(found)


def seconds(milliseconds: int | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


def encode(value: Scalar) -> str:
    """A knob as the text of an MLflow parameter: as people write it, quoted only where text looks like a number."""
    if isinstance(value, str) and not _is_json(value):
        return value
    return json.dumps(value)


def decode(text: str) -> Scalar:
    """The knob that `encode` wrote as `text`."""
    try:
        value: Scalar = json.loads(text)
    except ValueError:
        return text
    return value


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except ValueError:
        return False
    return True
