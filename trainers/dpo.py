"""The trainer of DPO runs: in packs what can share a pass, by TRL's own loop what cannot.

Knows no search, store or executor. What successive runs share stays loaded in the worker.
"""

from __future__ import annotations

import os
import shutil
import traceback
from pathlib import Path

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # DPOTrainer.__init__ sends it otherwise

import datasets
import torch
import transformers
from peft import PeftModel
from transformers import AutoTokenizer, PreTrainedTokenizerBase
from trl.trainer.utils import create_model_from_path

from studies.records import Cause, RunConfig, RunResult
from trainers.data import DataError
from trainers.interface import Desk, Job
from trainers.results import write_result
from trainers.settings import hardware_settings, parse_settings, resolve_model
from trainers.solo import Report, train_alone
from trainers.warm import Warm


class DPOTrainerWorker:
    """Trains DPO runs; see `trainers.interface.Trainer`."""

    def __init__(self) -> None:
        datasets.disable_progress_bars()
        transformers.utils.logging.disable_progress_bar()
        transformers.utils.logging.set_verbosity_error()
        self._warm = Warm()

    def train(self, job: Job, desk: Desk) -> None:
        """See `Trainer.train`. What diverges, or what TRL refuses, is a result; what the machine does is raised."""
        desk.finish(self._train_alone(job, desk.report))

    def _train_alone(self, job: Job, report: Report) -> RunResult:
        job.folder.mkdir(parents=True, exist_ok=True)
        try:
            result = train_alone(job, report, self._warm)
        except torch.OutOfMemoryError as error:
            self._warm = Warm()
            result = RunResult(key=job.config.key, cause=Cause.OUT_OF_GPU_MEMORY, message=str(error))
        except (DataError, ValueError, TypeError, NotImplementedError) as error:  # how TRL refuses settings
            traceback.print_exc()
            result = RunResult(key=job.config.key, cause=Cause.REFUSED, message=str(error))
        finally:
            shutil.rmtree(job.folder / "trainer", ignore_errors=True)
        write_result(job.folder, result)
        return result


def load_adapter(config: RunConfig, adapter: Path) -> tuple[PeftModel, PreTrainedTokenizerBase]:
    """The trained policy of a finished run: its base model with the adapter at `adapter`."""
    args, model_args = parse_settings({**hardware_settings(), **config.settings}, adapter.parent / "trainer", 0)
    path = resolve_model(str(model_args.model_name_or_path))
    base = create_model_from_path(path, dtype=model_args.dtype, trust_remote_code=args.trust_remote_code)
    tokenizer = AutoTokenizer.from_pretrained(path, trust_remote_code=args.trust_remote_code)
    return PeftModel.from_pretrained(base, str(adapter)), tokenizer
