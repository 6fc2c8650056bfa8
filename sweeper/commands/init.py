"""Writes the study file of `sweeper init`: small, complete and commented."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from textwrap import fill
from typing import Final

_EMBEDDED_BASE = """\
  max_steps: 120
  per_device_train_batch_size: 16
  learning_rate: 1.0e-3
  lr_scheduler_type: cosine
  warmup_steps: 10"""

_OWN_BASE = """\
  max_steps: 200
  per_device_train_batch_size: 4
  gradient_accumulation_steps: 4
  learning_rate: 1.0e-5
  lr_scheduler_type: cosine
  warmup_steps: 20"""

_TEMPLATE = """\
# A study: one question. Look at it with `sweeper plan {file}`, train it with `sweeper run {file}`.
study: {name}
question: Which DPO loss suits this model and this data?

base:                             # flat names of TRL's DPOConfig and ModelConfig; or the path of your TRL YAML
  model_name_or_path: {model}
  use_peft: true
  lora_r: 8
  lora_alpha: 16
  lora_target_modules: all-linear
{base}

# Hub id, .jsonl, .json or .csv (also .gz, .zst), .parquet, a folder, or embedded
{remark}data: {{path: {dataset}{bad_rows}}}

variants:                         # one arm each; the name is the loss unless loss_type says otherwise
  sigmoid: {{}}
  ipo: {{space: {{beta: {{low: 0.1, high: 10}}}}}}      # beta is another quantity for every loss
  robust: {{base: {{label_smoothing: 0.1}}}}
  apo_zero: {{}}

space:                            # searched in every variant where it acts
  beta: {{low: 0.03, high: 1.0, log: true}}
{rate}

objective: {{metric: {metric}, direction: maximize}}
budget: {{trials: {trials}}}               # per variant, the same for all
"""


_MOST_LEFT_OUT: Final = 0.2
"""A larger share of the rows is not left out unasked."""


def remark_on(read: int, dropped: Counter[str]) -> tuple[str, bool]:
    """What to say of rows with so many bad ones of each kind, and whether a study may drop them unasked."""
    if not dropped:
        return (
            f"None of the {read:,} rows is bad; those that come to be are left out and counted (bad_rows: drop).",
            True,
        )
    kinds = ", ".join(f"{count} {kind}" for kind, count in dropped.most_common())
    told = f"{dropped.total():,} of {read:,} rows are bad ({kinds})"
    if dropped.total() > _MOST_LEFT_OUT * read:
        return f"{told}: too many to leave out unasked. Mend them, or add bad_rows: drop.", False
    return f"{told} and are left out; to be told of each, take bad_rows: drop away.", True


UNREAD: Final = "Bad rows are left out and counted; to be told of each, take bad_rows: drop away."


def write_starter(file: Path, model: str, dataset: str, remark: str = "", *, drops: bool = False) -> None:
    """Write a study of four losses for `model` on `dataset` into `file`; `remark`: a comment on the data, `drops`:
    whether bad rows are dropped.
    """
    own = model != "embedded" or dataset != "embedded"
    low, high = ("1.0e-6", "5.0e-5") if model != "embedded" else ("3.0e-4", "4.0e-3")
    file.parent.mkdir(parents=True, exist_ok=True)
    text = _TEMPLATE.format(
        file=file,
        name=_study_name(file),
        model=json.dumps(model, ensure_ascii=False) if model != "embedded" else model,
        dataset=json.dumps(dataset, ensure_ascii=False) if dataset != "embedded" else dataset,
        bad_rows=", bad_rows: drop" if drops else "",
        remark=fill(remark, 118, initial_indent="# ", subsequent_indent="# ") + "\n" if remark else "",
        base=_OWN_BASE if own else _EMBEDDED_BASE,
        rate=f"  learning_rate: {{low: {low}, high: {high}, log: true}}",
        metric="ranking_gain" if own else "gold",
        trials=8 if own else 2,
    )
    file.write_text(text, encoding="utf-8")


def _study_name(file: Path) -> str:
    """The file's stem with characters replaced that a study name cannot have."""
    return "".join(c if c.isascii() and (c.isalnum() or c in "-_") else "-" for c in file.stem) or "study"
