"""Writes a designed study as a file that says in a few words why each number is what it is."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from textwrap import fill
from typing import Final

from studies.records import EMBEDDED, DataConfig
from studies.text.plural import duration_in_words, so_many
from sweeper.commands.starter.design import EMBEDDED_AT, Design, trained_pairs
from sweeper.commands.starter.facts import Facts

_COLUMN: Final = 46  # where comments begin
_BETAS: Final = "{low: 0.03, high: 0.5, log: true}"
# What is written of a variant, and why.
_VARIANTS: Final = {
    "sigmoid": ("{}", "plain DPO"),
    "robust": ("{base: {label_smoothing: 0.1}}", "for preferences of which some are wrong"),
    "ipo": ("{space: {beta: {low: 0.3, high: 3.0}}}", "its beta is another quantity: 1/(2 beta) is a target margin"),
}


def study_text(facts: Facts, design: Design, file: Path, head: tuple[str, ...]) -> str:
    """The study file. `head`: lines of its first comment."""
    lines = [
        *(f"# {line}".rstrip() for line in head),
        "#",
        *_comment(f"The model: {facts.model.in_words()}"),
        *(line for said in [" ".join(facts.in_words())] if said for line in _comment(f"The data: {said}")),
        *(line for said in design.told for line in _comment(f"Note: {said}")),
        f"study: {study_name(file)}",
        "question: Which DPO loss suits this model and this data?",
        "",
        *_base(facts, design),
        "",
        *_data(facts, design),
        "",
        *_comparison(facts, design),
        "",
        *_measured(facts, design),
        "",
        *_size(design),
    ]
    return "\n".join(lines) + "\n"


def study_name(file: Path) -> str:
    """The file's stem with characters replaced that a study name cannot have."""
    name = "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in file.stem)
    return (name if name[:1].isalnum() else f"study{name}")[:64]


def duration(hours: float) -> str:
    """Hours as a study file says them: `8h`, `90m`, `180s`."""
    seconds = round(hours * 3600)
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds % size == 0 and seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{max(seconds, 1)}s"


def _base(facts: Facts, design: Design) -> Iterator[str]:
    modules = ", ".join(facts.model.modules[:7])
    pairs = design.batch * design.accumulation
    yield _line("base:", "TRL's own names, all on one level; or the path of your TRL YAML")
    yield f"  model_name_or_path: {_name(facts.model.name)}"
    if design.dtype:
        yield _line(f"  dtype: {design.dtype}", "half the memory of float32; the adapters learn on top of it")
    yield _line("  use_peft: true", "LoRA: many runs train in one pass over one base")
    yield _line(f"  lora_r: {design.rank}", "rank of the adapters; more rarely helps with a few thousand pairs")
    yield _line(f"  lora_alpha: {2 * design.rank}", "twice the rank, so that learning rates mean the same at any rank")
    yield _line("  lora_dropout: 0.0", "runs are short; dropout would only add noise to the comparison")
    yield _line("  lora_target_modules: all-linear", modules or "every linear layer but the last")
    yield _line(f"  per_device_train_batch_size: {design.batch}", "pairs in memory at once")
    yield _line(f"  gradient_accumulation_steps: {design.accumulation}", f"so that a step takes {pairs} pairs")
    yield _line("  lr_scheduler_type: constant_with_warmup", "so that each step is the end of a run of that length")
    yield _line(f"  warmup_steps: {min(10, design.steps // 4)}", "a few steps, or Adam's first ones are too large")
    yield _line(f"  max_steps: {design.steps}", _times(facts, design))


def _times(facts: Facts, design: Design) -> str:
    if facts.rows is None:
        return "more only where the table says that losses never get to their drift"
    seen, there = (
        design.steps * design.batch * design.accumulation,
        trained_pairs(facts, design.held_out or 0, design.max_length),
    )
    return f"{seen / there:.1f} times through the pairs; later steps mostly learn them by heart"


def _data(facts: Facts, design: Design) -> Iterator[str]:
    if facts.is_embedded:
        yield _line("data: {path: embedded, rows: 2048}", "reviews with a known true reward, drawn anew for each draw")
        return
    data = facts.data
    yield "# Hub id, .jsonl, .json or .csv (also .gz, .zst), .parquet, or a folder"
    yield from _comment(facts.remark) if facts.remark else ()
    path = f"  path: {_name(data.path)}"
    yield from ("data:", path)
    for name in ("split", "eval_split"):
        given = getattr(data, name)
        if given != DataConfig.model_fields[name].default:
            yield _line(f"  {name}: {_name(given)}", "trained on" if name == "split" else "held out, as the data say")
    if data.messages == "text":
        yield _line("  messages: text", "the model has no chat template: `User: ...`, `Assistant: ...`")
    if not facts.unusable:
        yield _line(f"  eval_rows: {design.held_out}", "held-out pairs of each draw; prompts are never on both sides")
        yield _line(f"  max_length: {design.max_length}", "tokens of prompt and answer; longer pairs are left out")
        if design.max_prompt_length is not None:
            yield _line(f"  max_prompt_length: {design.max_prompt_length}", "the model's positions end there")
    if data.bad_rows == "drop":
        yield _line("  bad_rows: drop", "empty, tied or broken rows are left out and counted")


def _comparison(facts: Facts, design: Design) -> Iterator[str]:
    low, high = design.rates
    yield _line("baseline: sigmoid", "the loss that you use today; the others are compared with it")
    yield _line("variants:", "one each; the name is the loss unless loss_type says otherwise")
    for name in design.variants:
        written, why = _VARIANTS[name]
        yield _line(f"  {name}: {written}", why)
    yield _line("space:", "searched in every variant where it acts, from the same points")
    yield _line(f"  beta: {_BETAS}", "pull to the original model: less drift at larger ones")
    rate = f"  learning_rate: {{low: {low:.1e}, high: {high:.1e}, log: true}}".replace("e-0", "e-")
    yield _line(rate, "what LoRA trains with at this size")


def _measured(facts: Facts, design: Design) -> Iterator[str]:
    if facts.is_embedded:
        yield _line("evaluate:", "measured at these shares of a run, so that every drift is passed by")
        yield f"  {{prompts: 192, pairs: 64, max_new_tokens: 32, at: {list(EMBEDDED_AT)}}}"
        yield "# read where a run is 1 nat from its start: reward can be bought by running further"
        yield _line("objective: {metric: gold, at_drift: 1.0, tie_within: 0.03}", "3 points do not matter")
        return
    judge = "" if design.judge is None else f", judge: {design.judge}"
    written = f"evaluate: {{prompts: {design.prompts}, max_new_tokens: {design.new_tokens}{judge}}}"
    if judge:
        yield _line(written, "samples of every loss, on the same prompts, for the judge")
        yield "# win_rate: how often the judge puts a loss's answer above the baseline's"
        yield _line("objective: {metric: win_rate, tie_within: 0.05}", "5 prompts of 100 do not matter")
        return
    yield _line(written, "samples that tell drift, length and repetition")
    yield "# ranking_gain: held-out pairs ranked right, less the untrained model's share. It looks at nothing that is"
    yield "# written, so it names no winner: evaluate: {judge: {reward_model: ORG/MODEL}}, and metric: win_rate, would"
    yield _line("objective: {metric: ranking_gain, tie_within: 0.02}", "2 pairs of 100 do not matter")


def _size(design: Design) -> Iterator[str]:
    hours, runs = duration(design.hours), so_many(design.runs, "run")
    room = f"; {hours} may do for {design.room}" if design.room > design.replicates else ""
    budget = f"budget: {{trials: {design.trials}, wall_clock: {hours}}}"
    yield _line(budget, "settings for each loss in a replicate; when to start nothing new")
    yield _line(f"replicates: {design.replicates}", f"each loss is tuned and judged so often, on fresh draws{room}")
    losses = f"{design.replicates} x {len(design.variants)} losses x ({design.trials} settings + 1 judging run)"
    by = "by a speed test" if design.is_timed else "by a guess"
    takes = f": {by} {duration_in_words(design.seconds)} on {design.machine.in_words}" if design.seconds else ""
    yield from _comment(f"{losses} = {runs}{takes}.")


def _line(text: str, comment: str) -> str:
    return f"{text:<{_COLUMN - 2}}  # {comment}"


def _comment(text: str) -> list[str]:
    return fill(text, 116, initial_indent="# ", subsequent_indent="#   ", break_on_hyphens=False).splitlines()


def _name(text: str) -> str:
    return text if text == EMBEDDED or text.replace("_", "").isalnum() else json.dumps(text, ensure_ascii=False)
