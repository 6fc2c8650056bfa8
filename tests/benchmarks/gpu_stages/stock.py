"""A step of stock `DPOTrainer` on the pairs that a pack trains on."""

from __future__ import annotations

import statistics
import time
from pathlib import Path
from typing import Any

import datasets
from transformers import AutoTokenizer, TrainerCallback
from trl import DPOTrainer, get_peft_config
from trl.trainer.utils import create_model_from_path

from studies.records import RunConfig
from tests.benchmarks.gpu_stages.figures import Figures
from tests.benchmarks.gpu_stages.inputs import peak_mib, reset_peak, wait
from trainers.components.settings import hardware_settings, parse_settings
from trainers.data.pairs import load_pairs


class _Clock(TrainerCallback):  # type: ignore[misc]
    """Reads the clock at the end of every step, when the device has done it."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        wait()
        self.times.append(time.perf_counter())


def time_stock(figures: Figures, flags: str, config: RunConfig, work: Path) -> float:
    """Seconds of a step in the median, once the first third is over; `flags` says in words which the config has."""
    datasets.disable_progress_bars()
    args, model_args = parse_settings({**hardware_settings(), **config.settings}, work / "stock", config.seed)
    args.model_init_kwargs = None
    tokenizer = AutoTokenizer.from_pretrained(model_args.model_name_or_path)
    pairs = load_pairs(config.data, config.block, tokenizer).train
    reset_peak()
    base = create_model_from_path(model_args.model_name_or_path, dtype=model_args.dtype)
    clock = _Clock()
    began = time.perf_counter()
    trainer = DPOTrainer(
        model=base,
        args=args,
        train_dataset=datasets.Dataset.from_list(list(pairs)[: args.max_steps * args.per_device_train_batch_size]),
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args),
        callbacks=[clock],
    )
    setup = time.perf_counter() - began
    trainer.train()
    each = [b - a for a, b in zip(clock.times, clock.times[1:], strict=False)]
    step = statistics.median(each[len(each) // 3 :])
    figures.note(
        "stock",
        flags=flags,
        step_ms=1e3 * step,
        setup_s=setup,
        peak_mib=peak_mib(),
        each_ms=[1e3 * seconds for seconds in each],
    )
    return step
