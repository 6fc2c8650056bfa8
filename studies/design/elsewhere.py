"""Models that no run of a study trained, as they are measured beside its losses: on which draws, and as what.

Reads no file. Such a model is measured and never tuned: nothing here is a trial, and nothing counts among the settings
of a loss.
"""

from __future__ import annotations

from typing import Final, NamedTuple

from studies.records import ELSEWHERE, RunConfig, RunRecord
from studies.schema.variants import resolve_run
from studies.study import Study

# Of a run's settings, those that decide how its base is loaded and its samples are drawn; how it trains is no matter.
MEASURING: Final = (
    *("model_name_or_path", "model_revision", "trust_remote_code", "attn_implementation", "dtype", "use_peft"),
    *("model_init_kwargs", "load_in_4bit", "load_in_8bit", "bnb_4bit_quant_type", "use_bnb_nested_quant"),
    *("bnb_4bit_quant_storage", "max_length", "truncation_mode", "pad_token", "bf16", "fp16", "tf32", "use_cpu"),
)
# What a scenario does to training pairs, which such a model never sees.
_OF_TRAINING: Final = {"label_flip": 0.0, "flip_by": "chance", "rejected_from": "own"}


class Draw(NamedTuple):
    """One draw of the pairs, in a scenario or a replicate of one."""

    scenario: str
    block: int


def judging_draws(study: Study) -> tuple[Draw, ...]:
    """The draws on which the study's losses are judged: fresh ones, or all that there are where it has none such."""
    return tuple(
        Draw(name, block)
        for name, own in study.by_scenario()
        for block in dict.fromkeys((own.spec.confirm or own.spec.runs).blocks)
    )


def measured_as(study: Study, draw: Draw, name: str, content: str) -> RunConfig:
    """The config by which a model from elsewhere, of this content, is measured on a draw: with the base, the pairs and
    the evaluation of the study's baseline there. Its key tells whether two are the same measurement.
    """
    arms = study.within(draw.scenario).variants
    arm = arms.get(study.spec.baseline or "") or next(iter(arms.values()))
    run = resolve_run(study.spec, arm, draw.scenario, trial=0, knobs={}, block=draw.block, seed=0)
    return run.model_copy(
        update={
            "variant": name,
            "settings": {key: value for key, value in run.settings.items() if key in MEASURING},
            "data": run.data.model_copy(update=_OF_TRAINING),
            "evaluation": run.evaluation.model_copy(update={"at": (1.0,)}),
            "balance": None,
            "content": {**run.content, ELSEWHERE: content},
        }
    )


def is_asked(study: Study, record: RunRecord) -> bool:
    """Whether what was measured of a model from elsewhere is what the study, with its contents, asks of it now."""
    draw = Draw(record.scenario, record.block)
    if record.scenario not in study.spec.scenarios or ELSEWHERE not in record.content:
        return False
    return draw in judging_draws(study) and record.key == key_of(study, draw, record.content[ELSEWHERE])


def key_of(study: Study, draw: Draw, content: str) -> str:
    """The identity of a measurement."""
    return measured_as(study, draw, "", content).key
