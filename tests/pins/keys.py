"""What makes a run the same run: the digests by which a store finds it again, of every variant and scenario that
ships and of configs with a field that is not its default.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from studies.design.identity import context_of, goal_of, question_of, strata, stratum_question
from studies.design.points import planned_points, to_knobs
from studies.records import RunConfig, Scalar
from studies.spec import (
    ResolvedVariant,
    Simplex,
    StudySpec,
    Values,
    arms,
    arms_in,
    in_scenario,
    load_study,
    resolve_run,
    shipped_studies,
)

OUTSIDE = ("base.model_name_or_path=org/model", "data.path=org/data", "objective.metric=ranking_gain")
# The quickstart of before replicates. Each is the first run of its robust but for these settings.
QUICKSTART = Path(__file__).with_name("quickstart.yaml")
EDITS: Mapping[str, Sequence[str]] = {
    "plain": [],
    "learning rate": ["base.learning_rate=0.002"],
    "steps": ["base.max_steps=60"],
    "full training": ["base={model_name_or_path: embedded, learning_rate: 1.0e-4, max_steps: 120}"],
    "another loss's strength": ["variants.robust.base.label_smoothing=0.25"],
    "another block": ["runs.blocks=[7]"],
    "another seed": ["runs.seeds=[3]"],
    "by formula": ["trainer=formula"],
    "fewer rows": ["data.rows=64"],
    "fewer held-out rows": ["data.eval_rows=32"],
    "a folder of data": [*OUTSIDE, "data.path=somewhere/data"],
    "a subset": [*OUTSIDE, "data.name=subset"],
    "a revision": [*OUTSIDE, "data.revision=main"],
    "another split": [*OUTSIDE, "data.split=train_prefs"],
    "a held-out split": [*OUTSIDE, "data.eval_split=test_prefs"],
    "longest prompt": ["data.max_prompt_length=32"],
    "longest completion": ["data.max_completion_length=32"],
    "longest": ["data.max_length=64"],
    "flipped": ["scenarios={noisy: {label_flip: 0.2}}"],
    "flipped by length": ["scenarios={noisy: {label_flip: 0.2, flip_by: length}}"],
    "answers of others": ["scenarios={shuffled: {rejected_from: another}}"],
    "answers of the model": ["scenarios={single: {rejected_from: model}}"],
    "a better writer": ["scenarios={better: {pairs_from: better}}"],
    "gold of the prompt": ["data.gold=prompt"],
    "bad rows dropped": [*OUTSIDE, "data.bad_rows=drop"],
    "columns": [*OUTSIDE, "data.columns={prompt: question}"],
    "evaluated half way": ["evaluate.at=[0.5, 1.0]"],
    "fewer prompts": ["evaluate.prompts=8"],
    "shorter samples": ["evaluate.max_new_tokens=8"],
    "fewer pairs": ["evaluate.pairs=8"],
    "batches": ["evaluate.batch_size=8"],
    "margin": ["evaluate.margin=1.0"],
    "judged": [*OUTSIDE, "evaluate.judge={reward_model: org/judge, revision: abc}"],
    "judged by a function": [*OUTSIDE, "evaluate.judge={function: 'json:dumps'}"],
    "another study": ["study=another", "variants.robust.loss_type=robust"],
    "scenario of settings": ["scenarios={long: {base: {max_steps: 240}}}"],
    "another sampler seed": ["sampler_seed=5"],
    "another space": ["variants.robust.space.beta={values: [0.1, 0.3, 0.5]}"],
    "tpe": ["sampler=tpe", "space.beta={low: 0.1, high: 1.0, log: true}", "variants.robust.space={}"],
    "kl asked for": ["objective.metric=kl", "objective.direction=minimize"],
    "rungs": ["mode=search", "sampler=tpe", "rungs={at: [0.5], eta: 3}", "baseline=null"],
}

# What the sources of OUTSIDE hold, by what a store calls them: bytes and model files, commits of the Hub, a day.
HELD: Mapping[str, Mapping[str, str]] = {
    "bytes": {"data org/data": "aaaa", "model org/model": "bbbb", "tokenizer org/model": "cccc"},
    "commits": {"data org/data": "commit:1111", "model org/model": "commit:2222"},
    "a day": {"date of the chat template of org/model": "2026-11-29"},
}


def run_keys() -> dict[str, Any]:
    """Every digest that a store knows a run, a trial or a study of this version by."""
    shipped = {name: load_study(path) for name, path in shipped_studies().items()}
    return {
        "studies": {name: _of_study(spec) for name, spec in shipped.items()},
        "edits": {name: _of_edit(edits) for name, edits in EDITS.items()},
        "contents": {name: _of_edit(OUTSIDE, content) for name, content in HELD.items()},
    }


def _of_study(spec: StudySpec) -> dict[str, Any]:
    every = arms(spec)
    found: dict[str, Any] = {"goal": goal_of(spec)}
    for scenario in spec.scenarios:
        own = in_scenario(spec, scenario)
        for arm in arms_in(spec, every, scenario).values():
            configs = list(_configs(own, arm, scenario))
            found[f"{scenario}/{arm.name}"] = {
                "key": configs[0].key,
                "keys": f"{len(configs)} {_digest([config.key for config in configs])}",
                "question": question_of(spec, scenario, arm),
            }
    found["optuna"] = {
        name: [question(spec, stratum.scenario, stratum.arms) for question in (stratum_question, context_of)]
        for name, stratum in strata(spec, every).items()
    }
    return found


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256(" ".join(texts).encode()).hexdigest()[:12]


def _configs(spec: StudySpec, arm: ResolvedVariant, scenario: str) -> Iterator[RunConfig]:
    """The runs that are known before any result; of a space that a sampler searches, one at its lower ends."""
    planned: list[Mapping[str, Scalar]] = [to_knobs(arm, point.params) for point in planned_points(spec, arm)]
    for trial, knobs in enumerate(planned or [_lower_ends(arm)]):
        for block in spec.runs.blocks[:2]:
            yield resolve_run(spec, arm, scenario, trial=trial, knobs=knobs, block=block, seed=spec.runs.seeds[0])


def _lower_ends(arm: ResolvedVariant) -> dict[str, Scalar]:
    knobs: dict[str, Scalar] = {}
    for name, distribution in arm.space.items():
        match distribution:
            case Simplex():
                knobs |= {f"loss_weights.{loss}": 1 / len(arm.losses) for loss in arm.losses[1:]}
            case Values(values=values):
                knobs[name] = values[0]
            case _:
                knobs[name] = distribution.low
    return knobs


def _first(edits: Sequence[str], contents: Mapping[str, str] = {}) -> tuple[StudySpec, ResolvedVariant, RunConfig]:
    spec = load_study(QUICKSTART, edits).model_copy(update={"contents": contents})
    arm = arms(spec)["robust"]
    return spec, arm, next(_configs(spec, arm, next(iter(spec.scenarios))))


def _of_edit(edits: Sequence[str], contents: Mapping[str, str] = {}) -> dict[str, Any]:
    spec, arm, config = _first(edits, contents)
    found = {"key": config.key, "question": question_of(spec, config.scenario, arm), "goal": goal_of(spec)}
    earlier = sorted(config.earlier_keys - {config.key})
    return found | ({"earlier": earlier} if earlier else {}) | ({"content": dict(config.content)} if contents else {})
