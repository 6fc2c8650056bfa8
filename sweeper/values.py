"""A result as MLflow keeps it: metrics by name and step, and tags; knows no MLflow."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence

from dashboards.load import CURVE_HALVES, CURVES, ERRORS, FACT_PREFIX, HALVES, NON_FINITE, encode
from studies.records import METRICS, Measurement, RunRecord, RunResult, Scalar
from studies.redact import redact

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


def score_tags(record: RunRecord, measurements: Sequence[Measurement], facts: Mapping[str, Scalar]) -> dict[str, str]:
    """What changes in the tags of a run with measurements that were made after it had ended; all of them finite.

    Their earlier values on the way go: another judge may have given them.
    """
    errors = {**record.errors, **{m.name: m.error for m in measurements if m.error is not None}}
    halves = {**record.halves, **{m.name: m.halves for m in measurements if m.halves}}
    tags = {FACT_PREFIX + name: encode(value) for name, value in redact(facts).items()}
    names = {m.name for m in measurements}
    for tag, before in ((CURVES, record.curves), (CURVE_HALVES, record.curve_halves)):
        left = {name: points for name, points in before.items() if name not in names}
        tags |= {tag: json.dumps(left)} if before else {}
    return tags | {ERRORS: json.dumps(errors), HALVES: json.dumps(halves)}


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
