"""Brings the mapping of a study file into its normal form: aliases, merged spaces, numbers that YAML left as text.

Works on plain mappings, never raises and never judges: what it cannot read it leaves for the checks to name.
Applying it twice changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from studies.losses.trl_settings import TYPES, coerce
from studies.records import METRICS

_DURATION = re.compile(r"\s*(\d+(?:\.\d+)?)\s*([dhms]?)\s*")
_SECONDS = {"": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


def seconds(value: Any) -> Any:
    """'12h', '30m', '45s', '2d' or a number -> seconds; anything else unchanged."""
    if not isinstance(value, str):
        return value
    match = _DURATION.fullmatch(value)
    return float(match[1]) * _SECONDS[match[2]] if match else value


def normal_study(raw: Mapping[Any, Any]) -> dict[Any, Any]:
    """The study file `raw` in normal form; see the module."""
    study = dict(raw)
    if "evaluate" in study and "evaluation" not in study:
        study["evaluation"] = study.pop("evaluate")
    if isinstance(study.get("base"), Mapping):
        study["base"] = normal_settings(study["base"])
    if isinstance(study.get("space"), Mapping):
        study["space"] = {knob: normal_distribution(knob, value) for knob, value in study["space"].items()}
    for group in ("variants", "scenarios"):  # `sigmoid:` with nothing after it is an empty mapping
        if isinstance(study.get(group), Mapping):
            study[group] = {name: {} if value is None else value for name, value in study[group].items()}
    if isinstance(study.get("scenarios"), Mapping):
        study["scenarios"] = {name: _scenario(value) for name, value in study["scenarios"].items()}
    if isinstance(study.get("variants"), Mapping):
        shared = study.get("space") if isinstance(study.get("space"), Mapping) else {}
        study["variants"] = {name: _variant(value, shared or {}) for name, value in study["variants"].items()}
    if study.get("mode") == "search":
        study.setdefault("sampler", "tpe")
    if isinstance(study.get("objective"), Mapping):
        study["objective"] = _objective(study["objective"])
    return study


def normal_settings(settings: Mapping[Any, Any]) -> dict[Any, Any]:
    """Flat settings in the types that TRL declares for them."""
    return {name: coerce(name, value) if isinstance(name, str) else value for name, value in settings.items()}


def normal_distribution(knob: Any, value: Any) -> Any:
    """A distribution with the ends and values of a knob in its declared type, and `type: int` where that is whole."""
    if not isinstance(value, Mapping):
        return value
    kind = TYPES.get(knob, "float").rstrip("?")
    result = {key: _scalar(knob, item) if key in ("low", "high") else item for key, item in value.items()}
    if isinstance(result.get("values"), list | tuple):
        result["values"] = [_scalar(knob, item) for item in result["values"]]
    if kind == "int" and "low" in result and "high" in result:
        result.setdefault("type", "int")
    return result


def _scalar(knob: Any, value: Any) -> Any:
    """A value of a varied knob in its declared type; one name stays a name where TRL wants a list of them."""
    coerced = coerce(knob, value) if isinstance(knob, str) else value
    return value if isinstance(coerced, list) else coerced


def _variant(value: Any, shared: Mapping[Any, Any]) -> Any:
    if not isinstance(value, Mapping):
        return value
    variant = dict(value)
    for name in ("loss_type", "loss_weights"):
        if name in variant and isinstance(variant[name], str | int | float) and not isinstance(variant[name], bool):
            variant[name] = [variant[name]]
    if isinstance(variant.get("expect"), str):
        variant["expect"] = {"outcome": variant["expect"]}
    if isinstance(variant.get("base"), Mapping):
        variant["base"] = normal_settings(variant["base"])
    if isinstance(variant.get("space"), Mapping):
        variant["space"] = {
            knob: normal_distribution(knob, _merged(dist, shared.get(knob))) for knob, dist in variant["space"].items()
        }
    if isinstance(variant.get("points"), list | tuple):
        variant["points"] = [
            {knob: _scalar(knob, item) for knob, item in point.items()} if isinstance(point, Mapping) else point
            for point in variant["points"]
        ]
    return variant


def _scenario(value: Any) -> Any:
    if not isinstance(value, Mapping) or not isinstance(value.get("base"), Mapping):
        return value
    return {**value, "base": normal_settings(value["base"])}


def _merged(own: Any, shared: Any) -> Any:
    """A variant's distribution over the shared one, field by field, where both are of one kind."""
    if not isinstance(own, Mapping) or not isinstance(shared, Mapping):
        return own
    if "type" in own and own["type"] != shared.get("type", own["type"]):
        return own
    if ("values" in own) != ("values" in shared):
        return own
    return {**shared, **own}


def _objective(objective: Mapping[Any, Any]) -> dict[Any, Any]:
    """The direction follows from the metric where the file leaves it open."""
    metric = METRICS.get(str(objective.get("metric")))
    if metric is not None and metric.better is not None and "direction" not in objective:
        return {**objective, "direction": metric.better}
    return dict(objective)
