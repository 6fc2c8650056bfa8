"""Runs for the tests of packs: their configs, the same through plain `DPOTrainer`, and a model in float64."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import datasets
import pytest
import torch
import transformers
import trl.kernels.chunked_logprob as fused_head
import trl.trainer.utils
from safetensors.torch import load_file
from torch import Tensor
from transformers import AutoTokenizer
from transformers.models.llama.modeling_llama import LlamaRMSNorm
from trl import DPOTrainer, get_peft_config, get_quantization_config
from trl.trainer.utils import create_model_from_path

from studies.losses import table
from studies.records import DataConfig, EvaluationConfig, RunConfig, RunResult
from trainers import dpo
from trainers.components import worker_cache as warm
from trainers.components.settings import hardware_settings, parse_settings, resolve_model
from trainers.data.pairs import load_pairs
from trainers.dpo import DPOTrainerWorker
from trainers.interface import Decision, Job, Placement
from trainers.job_list import train_all
from trainers.trl_loop import train as solo

LOSSES = tuple(table.LOSSES)
# What the hardware decides where a run leaves it open (`hardware_settings`): TRL's defaults on a GPU, bf16 and gradient
# checkpointing, would be other numbers than those that these tests hold.
PINNED: Mapping[str, Any] = {"bf16": False, "fp16": False, "gradient_checkpointing": False}
SETTINGS: Mapping[str, Any] = {
    **PINNED,
    "model_name_or_path": "embedded",
    "use_peft": True,
    "lora_r": 4,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "lora_target_modules": "all-linear",
    "per_device_train_batch_size": 4,
    "learning_rate": 2e-3,
    "lr_scheduler_type": "cosine",
    "warmup_steps": 3,
    "weight_decay": 0.05,
    "max_steps": 30,
    "loss_type": ["sigmoid"],
    "beta": 0.3,
}
DATA = DataConfig(rows=64, eval_rows=16)
# TRL's default for exo_pair, 0, is refused; robust and aot show what smoothing does.
SMOOTHING = {"exo_pair": 1e-3, "robust": 0.1, "aot": 0.1}


def config(
    *losses: str,
    seed: int = 0,
    block: int = 0,
    label_flip: float = 0.0,
    rows: int = 64,
    at: tuple[float, ...] = (1.0,),
    **settings: Any,
) -> RunConfig:
    """A run of 30 steps on 64 pairs; `losses` are sigmoid unless given."""
    smoothing = (
        {"label_smoothing": max(SMOOTHING[name] for name in losses)} if losses and {*losses} <= {*SMOOTHING} else {}
    )
    return RunConfig(
        study="s",
        variant="v",
        scenario="clean",
        trial=0,
        block=block,
        seed=seed,
        settings={**SETTINGS, "loss_type": list(losses or ("sigmoid",)), **smoothing, **settings, "seed": seed},
        knobs={},
        data=DATA.model_copy(update={"label_flip": label_flip, "rows": rows}),
        evaluation=EvaluationConfig(at=at, prompts=16, max_new_tokens=12),
    )


def train(
    folder: Path,
    configs: Sequence[RunConfig],
    together: int,
    worker: DPOTrainerWorker | None = None,
    decide: Any = lambda *_: Decision.CONTINUE,
    **placement: Any,
) -> list[RunResult]:
    """Train the runs in a pack of at most `together`; 0 is TRL's own loop."""
    place = Placement(together=together, **placement)
    jobs = [Job(c, folder / c.key, placement=place) for c in configs]
    return train_all(worker or DPOTrainerWorker(), jobs, decide)


def weights(folder: Path, run: RunConfig) -> dict[str, Tensor]:
    """The adapter that a run has left in its folder."""
    return dict(load_file(folder / run.key / "adapter" / "adapter_model.safetensors"))


def plain_training(folder: Path, run: RunConfig) -> dict[str, Tensor]:
    """The adapter that stock TRL gives for the run: `DPOTrainer`, the model as `trl dpo` loads it, nothing of ours
    but the rows.
    """
    settings = {**hardware_settings(), **run.settings}
    args, model_args = parse_settings(settings, folder, run.seed)
    path = resolve_model(str(model_args.model_name_or_path))
    model = create_model_from_path(
        path, dtype=model_args.dtype, quantization_config=get_quantization_config(model_args)
    )
    if warm.load_base is not _LOAD:
        model.double()
    tokenizer = AutoTokenizer.from_pretrained(path)
    trainer = DPOTrainer(
        model=model,
        args=args,
        train_dataset=datasets.Dataset.from_list(list(load_pairs(run.data, run.block, tokenizer).train)),
        processing_class=tokenizer,
        peft_config=get_peft_config(model_args),
    )
    trainer.remove_callback(transformers.PrinterCallback)
    trainer.train()
    found = {}
    for name, value in trainer.model.named_parameters():
        if value.requires_grad:
            found[name.replace(".default.", ".")] = value.detach().clone()
    return found


def distance(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Largest difference of two adapters' weights."""
    assert a.keys() == b.keys()
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def apart(a: Mapping[str, Tensor], b: Mapping[str, Tensor]) -> float:
    """Distance of two adapters: the root of the sum of squared differences over all weights."""
    assert a.keys() == b.keys()
    return float(sum(((a[name].double() - b[name].double()) ** 2).sum() for name in a) ** 0.5)


def more_padding(folder: Path, run: RunConfig) -> dict[str, Tensor]:
    """The adapter of stock TRL in batches of another shape, which round anew; in another order they round the same."""
    return plain_training(folder, run.model_copy(update={"settings": {**run.settings, "pad_to_multiple_of": 32}}))


def exact_training(folder: Path, run: RunConfig, patch: pytest.MonkeyPatch) -> dict[str, Tensor]:
    """The adapter of stock TRL in float64, whatever precision the run has."""
    whole = run.model_copy(update={"settings": {**run.settings, "bf16": False}})
    with float64(patch):
        return plain_training(folder, whole)


def assert_rounding(ours: Mapping[str, Tensor], stock: Mapping[str, Tensor], *others: Mapping[str, Tensor]) -> None:
    """Ours differs from stock by no more than three times what stock differs from itself where it rounds otherwise.

    Measured on this machine: how far float32 rounds is another number for every CPU and every number of threads.
    """
    found, own = apart(ours, stock), max(apart(stock, other) for other in others)
    assert found <= 3 * own, (found, own)


def scored_beside(patch: pytest.MonkeyPatch) -> None:
    """Runs in TRL's own loop score the reference beside the policy, as TRL does: stored log-probs come through TRL's
    collator, which makes them float32 whatever the model is in.
    """
    patch.setattr(solo, "is_fixed", lambda *_, **__: False)


_LOAD = warm.load_base


def wide_norm(self: LlamaRMSNorm, hidden: Tensor) -> Tensor:
    """Llama's norm in the precision of its input."""
    scale: Tensor = torch.rsqrt(hidden.pow(2).mean(-1, keepdim=True) + self.variance_epsilon)
    return self.weight * (hidden * scale)


@contextmanager
def float64(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Everything in float64, in the pack and in stock TRL: the model, and the two places that are float32 whatever the
    model is, Llama's norms and the sums of TRL's fused head. (`torch.float32` in its file read as `torch.float64`.)
    """
    source = Path(str(fused_head.__file__)).read_text(encoding="utf-8")
    source = source.replace("torch.float32", "torch.float64").replace(".float()", ".double()")
    wide = ModuleType("trl.kernels.wide_logprob")
    wide.__package__, wide.__file__ = "trl.kernels", fused_head.__file__
    exec(compile(source, str(fused_head.__file__), "exec"), vars(wide))

    def load(*arguments: Any) -> Any:
        model, tokenizer = _LOAD(*arguments)
        return model.double(), tokenizer

    with patch.context() as inside:
        inside.setattr(trl.trainer.utils, "_ChunkedLogProbFunction", vars(wide)["ChunkedLogProbFunction"])
        inside.setattr(LlamaRMSNorm, "forward", wide_norm)
        for module in (warm, dpo):
            inside.setattr(module, "load_base", load)
        yield
