"""Makes arms whole and trials into run configs: which settings, knobs and weights a run of a variant has.

Pure: knows nothing of files, search or training.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from studies.losses import rules, simplex, table
from studies.losses.trl_settings import SWITCHED_OFF, TYPES, coerce
from studies.records import EMBEDDED, EMBEDDED_MODELS, DataConfig, RunConfig, Scalar
from studies.schema.contents import held, held_by_judge, held_by_opinions, pinned
from studies.schema.knob_problems import (
    Problem,
    distribution_problems,
    ends,
    name_problem,
    own_knob_problem,
    reason_not_shared,
    reason_to_leave_out,
    value_problems,
)
from studies.schema.types import (
    Distribution,
    ResolvedVariant,
    Scenario,
    StudyError,
    StudySpec,
    Variant,
)

# Settings that do nothing unless `use_peft` is on.
_PEFT_ONLY = {"use_rslora", "use_dora", "load_in_4bit", "load_in_8bit"}


class Built(NamedTuple):
    """An arm and what is wrong with it. `arm` is None where not even its losses are known."""

    arm: ResolvedVariant | None
    problems: list[Problem]


def arms(spec: StudySpec) -> Mapping[str, ResolvedVariant]:
    """Every variant of the study made whole, in the order of the file. Raises StudyError where one cannot be."""
    built = {name: build_arm(spec, name) for name in spec.variants}
    problems = [f"{p.path}: {p.text}" for one in built.values() for p in one.problems]
    if problems:
        raise StudyError(tuple(dict.fromkeys(problems)))
    return {name: one.arm for name, one in built.items() if one.arm is not None}


def build_arm(spec: StudySpec, name: str) -> Built:
    """The variant `name` made whole, with every mistake of its own and of what it shares."""
    variant = spec.variants[name]
    losses, problems = _losses(name, variant)
    if not losses:
        return Built(None, problems)
    settings, left_out, found = _settings(spec, name, variant, losses)
    problems += found
    space, more_left_out, found = _space(spec, name, variant, losses)
    problems += found
    left_out.update(more_left_out)
    problems += _points(spec, name, variant, losses, space)
    arm = ResolvedVariant(
        name=name,
        losses=losses,
        settings={**settings, "max_length": spec.data.max_length, **_loss_settings(losses, variant)},
        space=space,
        points=variant.points,
        left_out=left_out,
        warnings=(),
        balance=variant.balance,
    )
    places = _places(spec, name, variant, arm)
    problems += _balance_problems(spec.trainer, arm, places)
    needed = rules.needs(losses, possible(arm))
    combined = [Problem(places.get(f.knob, f"variants.{name}"), f.message) for f in needed]
    problems += [p for p in (*combined, *_peft_problems(arm, places)) if not _written_out(spec.base, p.path)]
    return Built(arm.model_copy(update={"warnings": _warnings(arm)}), problems)


def resolve_run(
    spec: StudySpec,
    arm: ResolvedVariant,
    scenario: str,
    *,
    trial: int,
    knobs: Mapping[str, Scalar],
    block: int,
    seed: int,
) -> RunConfig:
    """The config of one run. `knobs` are the sampled values by the names of `arm.space`; a simplex of K losses
    gives the K-1 names `loss_weights.<loss>` (all losses but the first), each the weight of that loss. What the study
    knows of its sources' contents goes into the config, commits as revisions too.

    Raises ValueError for weights that are not those of the arm's mixture, KeyError for an unknown scenario.
    """
    settings: dict[str, Any] = {**arm.settings, **spec.scenarios[scenario].base, **knob_settings(arm, knobs)}
    settings["seed"] = seed
    data = run_data(spec.data, spec.scenarios[scenario], settings)
    content = held(spec.contents, settings, data)
    settings, data = pinned(content, settings, data)
    return RunConfig(
        study=spec.study,
        variant=arm.name,
        scenario=scenario,
        trial=trial,
        block=block,
        seed=seed,
        trainer=spec.trainer,
        settings=settings,
        knobs=dict(knobs),
        data=data,
        evaluation=spec.evaluation,
        judge_content=held_by_judge(spec.contents, spec.evaluation),
        opinions=held_by_opinions(spec.contents, spec.evaluation),
        balance=arm.balance,
        content=content,
    )


def knob_settings(arm: ResolvedVariant, knobs: Mapping[str, Scalar]) -> dict[str, Any]:
    """What the knobs of a trial set, by TRL names. Raises ValueError for weights that are not of the arm's mixture."""
    weights = simplex.weights_from_knobs(arm.losses, knobs)
    settings = {k: coerce(k, v) for k, v in knobs.items() if not k.startswith("loss_weights.")}
    return settings if weights is None else {**settings, "loss_weights": list(weights)}


def scenario_data(data: DataConfig, scenario: Scenario) -> DataConfig:
    """The data as a scenario changes it."""
    return data.model_copy(update=scenario.data)


def run_data(data: DataConfig, scenario: Scenario, settings: Mapping[str, Any]) -> DataConfig:
    """The data of a run: as its scenario changes them; embedded pairs are those that the embedded model which it trains
    wrote itself.
    """
    found, model = scenario_data(data, scenario), settings.get("model_name_or_path")
    is_its_own = found.path == EMBEDDED and model in EMBEDDED_MODELS
    return found.model_copy(update={"path": model}) if is_its_own else found


def possible(arm: ResolvedVariant) -> dict[str, tuple[Scalar, ...]]:
    """Every value that a knob of the arm can take, or both ends of its range, by knob; fixed settings included."""
    found: dict[str, list[Scalar]] = {k: [v] for k, v in arm.settings.items() if isinstance(v, Scalar)}
    found.update({knob: [value for _, value in ends(dist)] for knob, dist in arm.space.items()})
    for point in arm.points:
        for knob, value in point.items():
            found.setdefault(knob, []).append(value)
    return {knob: tuple(values) for knob, values in found.items()}


def _losses(name: str, variant: Variant) -> tuple[tuple[str, ...], list[Problem]]:
    given = variant.loss_type if variant.loss_type is not None else (name,)
    path = f"variants.{name}.loss_type" if variant.loss_type is not None else f"variants.{name}"
    problems = []
    for loss in given:
        wrong = rules.loss_problem(loss)
        if wrong is not None:
            hint = "" if variant.loss_type is not None else "; a variant of another name needs a loss_type"
            problems.append(Problem(path, wrong + hint, wrong.removeprefix(f"{loss!r} "), hint[2:] or None))
    losses = tuple(table.RENAMED[loss][0] if loss in table.RENAMED else loss for loss in given)
    if not losses:
        problems.append(Problem(path, "loss_type is empty: name one loss, or several for a mixture"))
    if len(set(losses)) < len(losses):
        problems.append(Problem(path, f"{list(given)} names a loss twice: give it once, with the sum of the weights"))
    if problems:
        return (), problems
    return losses, _weight_problems(name, variant, losses)


def _weight_problems(name: str, variant: Variant, losses: Sequence[str]) -> list[Problem]:
    weights = variant.loss_weights
    path = f"variants.{name}.loss_weights"
    if weights is None:
        return []
    if len(weights) != len(losses):
        return [
            Problem(path, f"{list(weights)} has {len(weights)} weights for the {len(losses)} losses {list(losses)}")
        ]
    if not any(weights):
        return [Problem(path, f"{list(weights)} are all zero: nothing would be trained")]
    if len(losses) == 1:
        return [Problem(path, rules.inert(losses, "loss_weights"))]
    if variant.space.get("loss_weights") is not None:
        return [Problem(path, "is fixed here and varied in space.loss_weights: keep one of the two")]
    return []


def _settings(
    spec: StudySpec, name: str, variant: Variant, losses: Sequence[str]
) -> tuple[dict[str, Any], dict[str, str], list[Problem]]:
    """Fixed settings: the shared ones that act here, with the variant's own over them."""
    settings: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    problems = []
    for knob, value in spec.base.items():
        if knob in variant.base or knob not in TYPES:
            continue
        reason = reason_to_leave_out(losses, knob, value)
        if reason is None:
            settings[knob] = value
            problems += value_problems(losses, knob, value, f"base.{knob}")
        elif value != table.DEFAULTS[knob]:
            left_out[knob] = reason
    for knob, value in variant.base.items():
        path = f"variants.{name}.base.{knob}"
        wrong = name_problem(knob) or own_knob_problem(losses, knob, value)
        if wrong is None and variant.space.get(knob) is not None:
            wrong = f"{value!r} is fixed here and varied in the variant's space: keep one of the two"
        if wrong is None:
            settings[knob] = value
            problems += value_problems(losses, knob, value, path)
        else:
            problems.append(Problem(path, wrong))
    return settings, left_out, problems


def _space(
    spec: StudySpec, name: str, variant: Variant, losses: Sequence[str]
) -> tuple[dict[str, Distribution], dict[str, str], list[Problem]]:
    """What is varied: the shared knobs that act here, as the variant changes them, then the variant's own."""
    space: dict[str, Distribution] = {}
    left_out: dict[str, str] = {}
    problems = []
    for knob, shared in spec.space.items():
        if knob in variant.space:
            reason = "the variant leaves it out" if variant.space[knob] is None else None
            own = variant.space[knob]
        else:
            own = shared
            reason = reason_not_shared(variant, losses, knob)
        if reason is not None:
            left_out[knob] = reason
        elif own is not None:
            space[knob] = own
    for knob, own in variant.space.items():
        path = f"variants.{name}.space.{knob}"
        if own is None and knob not in spec.space:
            problems.append(Problem(path, "null leaves a setting of the shared space out, which has none of this name"))
        elif own is not None:
            space[knob] = own
            wrong = name_problem(knob) or own_knob_problem(losses, knob, None)
            if wrong is not None:
                problems.append(Problem(path, wrong))
    for knob, distribution in space.items():
        where = f"variants.{name}.space" if knob in variant.space else "space"
        problems += distribution_problems(losses, knob, distribution, f"{where}.{knob}")
    return space, left_out, problems


def _points(
    spec: StudySpec, name: str, variant: Variant, losses: Sequence[str], space: Mapping[str, Distribution]
) -> list[Problem]:
    problems = []
    # What a point leaves open comes from base, so a knob that is varied elsewhere must come from one of the two.
    needed = set(space) if space else {knob for knob in spec.space if rules.acts(losses, knob)}
    needed -= {"loss_weights", *spec.base, *variant.base} | {k for k, v in variant.space.items() if v is None}
    for i, point in enumerate(variant.points):
        path = f"variants.{name}.points.{i}"
        if point in variant.points[:i]:
            problems.append(Problem(path, f"{dict(point)} is there twice"))
        for knob, value in point.items():
            if knob in simplex.weight_names(losses):
                continue
            wrong = name_problem(knob) or own_knob_problem(losses, knob, value)
            if wrong is not None:
                problems.append(Problem(f"{path}.{knob}", wrong))
            else:
                problems += value_problems(losses, knob, value, f"{path}.{knob}")
        try:
            simplex.weights_from_knobs(losses, point)
        except ValueError as error:
            problems.append(Problem(path, str(error)))
        missing = sorted(needed - set(point))
        if missing:
            problems.append(
                Problem(
                    path,
                    f"{dict(point)} does not say {' and '.join(missing)}, which the study varies: add it, or say "
                    "it in base",
                )
            )
    return problems


def _loss_settings(losses: Sequence[str], variant: Variant) -> dict[str, Any]:
    weights = {} if variant.loss_weights is None else {"loss_weights": list(variant.loss_weights)}
    return {"loss_type": list(losses), **weights}


def _places(spec: StudySpec, name: str, variant: Variant, arm: ResolvedVariant) -> dict[str, str]:
    """Where in the file each knob of the arm is said, for messages about combinations."""
    places = {knob: f"base.{knob}" for knob in spec.base}
    places.update({knob: f"space.{knob}" for knob in spec.space if knob in arm.space})
    places.update({knob: f"variants.{name}.base.{knob}" for knob in variant.base})
    places.update({knob: f"variants.{name}.space.{knob}" for knob in variant.space})
    for i, point in enumerate(variant.points):
        places.update({knob: f"variants.{name}.points.{i}.{knob}" for knob in point if knob not in places})
    return places


def _balance_problems(trainer: str, arm: ResolvedVariant, places: Mapping[str, str]) -> list[Problem]:
    """Where shares of the gradient cannot be had or mean nothing."""
    if arm.balance is None:
        return []
    path, problems = f"variants.{arm.name}.balance", []
    if len(arm.losses) == 1:
        text = f"does nothing on the single loss {arm.losses[0]}: it weighs the members of a mixture; leave it out"
        problems.append(Problem(path, f"{arm.balance!r} {text}"))
    if trainer != "dpo":
        text = f"needs a trainer that measures gradients, which dpo does and {trainer} does not: leave it out"
        problems.append(Problem(path, f"{arm.balance!r} {text}"))
    weights = arm.settings.get("loss_weights") or ()
    if any(weight < 0.0 for weight in weights):
        text = f"{list(weights)} must be 0 or more with balance: {arm.balance}, as they are shares of the gradient"
        problems.append(Problem(places.get("loss_weights", f"variants.{arm.name}.loss_weights"), text))
    return problems


def _peft_problems(arm: ResolvedVariant, places: Mapping[str, str]) -> list[Problem]:
    if True in possible(arm).get("use_peft", ()):
        return []
    given = [k for k, v in {**arm.settings, **arm.space}.items() if v is not False and v is not None]
    given += [knob for point in arm.points for knob in point]
    return [
        Problem(places.get(knob, knob), f"{knob} does nothing without use_peft: true; add it to base, or remove {knob}")
        for knob in dict.fromkeys(given)
        if knob.startswith("lora_") or knob in _PEFT_ONLY
    ]


def _written_out(base: Mapping[str, Any], path: str) -> bool:
    """Whether a setting of the base that does nothing is there only as a dump of all settings says it."""
    knob = path.removeprefix("base.")
    return any(
        switch in base and knob in values and base.get(knob) in values[knob] for switch, values in SWITCHED_OFF.items()
    )


def _warnings(arm: ResolvedVariant) -> tuple[str, ...]:
    """Traps of the arm's knobs, then presets that it uses as they are printed."""
    found = [f.message for f in rules.traps(arm.losses, possible(arm), balanced=arm.balance is not None)]
    fixed = {k: v for k, v in arm.settings.items() if isinstance(v, Scalar) and k not in arm.space}
    candidates = [{**fixed, **point} for point in arm.points] or [fixed]
    found += [w for c in candidates if (w := rules.preset_warning(arm.losses, c)) is not None]
    return tuple(dict.fromkeys(found))
