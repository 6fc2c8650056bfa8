"""Judges of samples: a reward model, or the user's own function, as the gold reward of pairs that have none.

Knows no policy, no data and no training. A user's function is imported here and nowhere else.
"""

from __future__ import annotations

import importlib
import logging
import math
import random
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from types import ModuleType
from typing import Any, Final, cast

import numpy as np
import torch
from huggingface_hub.errors import (
    EntryNotFoundError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from jinja2 import TemplateError
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from studies.checks.judge import label_number, label_problem
from studies.records import COMMIT, Cause, Judge
from studies.text.lines import first_line
from studies.text.redact import redact
from trainers.data.pairs import Gold, JudgeError, Prefer, Preferences
from trainers.data.sources import Text
from trainers.data.tokens import plain
from trainers.models.bases import refuse_kernels
from trainers.models.tokenizer import UnusableModel, check_ids
from trainers.run_folder.failures import cause_of, told

logger = logging.getLogger(__name__)

_NO_LIMIT: Final = 1_000_000
"""What a tokenizer calls its longest text where it knows none is above this."""
# The Hub says that there is no such thing; elsewhere it did not answer, which another try may mend.
_NOT_THERE = (RepositoryNotFoundError, RevisionNotFoundError, EntryNotFoundError, HFValidationError)


def at_content(judge: Judge, content: str | None) -> Judge:
    """The judge as it lies at the commit that its name stands for, where it lies on the Hub."""
    is_commit = content is not None and content.startswith(COMMIT)
    return judge.model_copy(update={"revision": str(content).removeprefix(COMMIT)}) if is_commit else judge


def load_judge(judge: Judge) -> Gold:
    """The judge, ready to score. It leaves the global random states as they are, on which a run in training goes on.

    Raises JudgeError; OSError where the Hub does not answer.
    """
    with _random_states_kept():
        score = _reward_model(judge) if judge.reward_model else _function(judge)

    def checked(prompts: Sequence[Text], completions: Sequence[str], ended: Sequence[bool]) -> list[float]:
        """See `Gold`. Raises JudgeError for what is not a finite number for each completion."""
        with _random_states_kept():
            return _checked(judge, completions, score(prompts, completions))

    return checked


def load_pairwise(judge: Judge) -> Prefer:
    """A judge that compares two answers, ready to be asked, in both orders. Random states stay as they are.

    Its preference p(a, b) is how much it prefers a. A win is the mean of p(a, b) and 1 - p(b, a) where both are on one
    side of a half, and a half where one is above it and the other below: it prefers a place and no answer. That a
    judge's taste for the first answer is large: MT-Bench, 2306.05685. Raises JudgeError.
    """
    with _random_states_kept():
        compare = _imported(judge, str(judge.pairwise))

    def prefer(prompts: Sequence[Text], answers: Sequence[str], others: Sequence[str]) -> Preferences:
        with _random_states_kept():
            first = _shares(judge, answers, _called(judge, compare, prompts, answers_a=answers, answers_b=others))
            again = _shares(judge, answers, _called(judge, compare, prompts, answers_a=others, answers_b=answers))
        both = [(one, 1.0 - other) for one, other in zip(first, again, strict=True)]
        contradicted = tuple((one - 0.5) * (other - 0.5) < 0.0 for one, other in both)
        wins = tuple(
            0.5 if torn else (one + other) / 2.0 for (one, other), torn in zip(both, contradicted, strict=True)
        )
        return wins, contradicted

    return prefer


def _shares(judge: Judge, answers: Sequence[str], given: Any) -> list[float]:
    """Preferences as numbers from 0 to 1, one for each pair of answers."""
    values = _checked(judge, answers, given)
    bad = [value for value in values if not 0.0 <= value <= 1.0]
    if bad:
        raise JudgeError(f"judge {judge.name}: preferences are from 0 to 1, and {len(bad)} are not, such as {bad[0]:g}")
    return values


@contextmanager
def _random_states_kept() -> Iterator[None]:
    """Afterwards the random numbers of Python, numpy and torch are those that would have come without it."""
    ours, numpys = random.getstate(), np.random.get_state()
    try:
        with torch.random.fork_rng([torch.cuda.current_device()] if torch.cuda.is_available() else []):
            yield
    finally:
        random.setstate(ours)
        np.random.set_state(numpys)


def _checked(judge: Judge, completions: Sequence[str], scores: Any) -> list[float]:
    """The scores as numbers, one for each completion."""
    try:
        values = [math.nan if score is None else float(score) for score in scores]
    except (TypeError, ValueError) as error:
        raise JudgeError(f"judge {judge.name}: must give a list of numbers, gave {str(scores)[:100]}") from error
    if len(values) != len(completions):
        raise JudgeError(f"judge {judge.name}: gave {len(values)} scores for {len(completions)} completions")
    bad = [i for i, value in enumerate(values) if not math.isfinite(value)]
    if bad:
        raise JudgeError(
            f"judge {judge.name}: {len(bad)} of {len(values)} scores are not finite, the first ({values[bad[0]]}) of "
            f"{completions[bad[0]][:100]!r}: a mean over the others would be of other samples for every run"
        )
    return values


# ---- a function of the user -----------------------------------------------------------------------------------------

Score = Callable[[Sequence[Text], Sequence[str]], Any]


def _function(judge: Judge) -> Score:
    """The user's function, in the form of TRL's reward functions."""
    function = _imported(judge, str(judge.function))
    return lambda prompts, completions: _called(judge, function, prompts, completions=completions)


def _imported(judge: Judge, place: str) -> Callable[..., Any]:
    """A function of the user's, of `module:name`."""
    module, _, name = place.partition(":")
    try:
        with _working_folder():
            function = getattr(_module(module), name)
    except Exception as error:  # it is the user's code that runs
        raise JudgeError(_failed(judge, "cannot be imported", error)) from error
    if not callable(function):
        raise JudgeError(f"judge {judge.name}: is a {type(function).__name__} and cannot be called")
    return cast("Callable[..., Any]", function)


def _called(judge: Judge, function: Callable[..., Any], prompts: Sequence[Text], **answers: Sequence[str]) -> Any:
    """What the user's function gives for answers to prompts; they are messages where the prompts are."""
    told = {
        name: [
            [{"role": "assistant", "content": text}] if isinstance(prompt, list) else text
            for prompt, text in zip(prompts, texts, strict=True)
        ]
        for name, texts in answers.items()
    }
    try:
        with _working_folder():
            return function(prompts=list(prompts), **told)
    except Exception as error:
        raise JudgeError(_failed(judge, f"raised for {len(prompts)} completions", error)) from error


@contextmanager
def _working_folder() -> Iterator[None]:
    """Modules are found in the working folder too, last, so that a file there hides no library; for the judge alone,
    since a library takes whatever has the name of something that it can use and that is not installed.
    """
    here = str(Path.cwd())
    if here in sys.path:
        yield
        return
    sys.path.append(here)
    try:
        yield
    finally:
        with suppress(ValueError):  # the judge may have changed the path
            sys.path.remove(here)


def _module(name: str) -> ModuleType:
    """The module as its file is now, which may have changed since this process imported it."""
    earlier = sys.modules.get(name)
    if earlier is not None and Path(earlier.__file__ or "").parent == Path.cwd():
        return importlib.reload(earlier)
    return importlib.import_module(name)


def _failed(judge: Judge, what: str, error: Exception) -> str:
    """What is told of the user's code; all of its traceback goes to the log."""
    logger.error("judge %s: %s", judge.name, what, exc_info=error)
    return (
        f"judge {judge.name}: {what} ({type(error).__name__}: {error}); its traceback is in the worker's log. Mend it, "
        "and train what it ended again with: sweeper retry STUDY --cause refused"
    )


# ---- a reward model -------------------------------------------------------------------------------------------------


def _reward_model(judge: Judge) -> Score:
    model, tokenizer = _load(judge)
    label, exclusive = _output(judge, model)
    limit = _longest(judge, model, tokenizer)
    size = judge.batch_size if tokenizer.pad_token is not None else 1

    def score(prompts: Sequence[Text], completions: Sequence[str]) -> list[float]:
        rows = [_ids(judge, tokenizer, p, c, limit) for p, c in zip(prompts, completions, strict=True)]
        try:
            check_ids(chain.from_iterable(ids for ids, _ in rows), model, tokenizer)
        except UnusableModel as error:
            raise JudgeError(f"judge {judge.name}: {error}") from error
        cut = sum(was_cut for _, was_cut in rows)
        if cut:
            logger.warning(
                "judge %s: %d of %d texts are cut to their last %d tokens", judge.name, cut, len(rows), limit
            )
        by_length = sorted(range(len(rows)), key=lambda i: len(rows[i][0]))
        found = [0.0] * len(rows)
        for start in range(0, len(rows), size):
            batch = by_length[start : start + size]
            rewards = _rewards(model, [rows[i][0] for i in batch], label, exclusive)
            for i, reward in zip(batch, rewards, strict=True):
                found[i] = reward
        return found

    return score


def _load(judge: Judge) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The classifier on this worker's device, and its tokenizer. Raises JudgeError where it cannot be one."""
    where = {"revision": judge.revision, "trust_remote_code": judge.trust_remote_code}
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = "auto" if device == "cuda" else torch.float32
    try:
        config = PreTrainedConfig.get_config_dict(judge.reward_model, revision=judge.revision)[0]
        refuse_kernels(str(judge.reward_model), config)
        tokenizer = AutoTokenizer.from_pretrained(judge.reward_model, **where)
        model, report = AutoModelForSequenceClassification.from_pretrained(
            judge.reward_model, dtype=dtype, output_loading_info=True, **where
        )
    except OSError as error:
        if isinstance(error, _NOT_THERE) or not _may_come_back(error):
            raise JudgeError(f"judge {judge.name}: cannot be loaded: {_first_line(error)}") from error
        raise
    except (ValueError, KeyError, TypeError, ImportError) as error:
        raise JudgeError(
            f"judge {judge.name}: cannot be loaded as a sequence classifier: {_first_line(error)}"
        ) from error
    except Exception as error:
        if cause_of(error) is not Cause.REFUSED:
            raise
        raise JudgeError(f"judge {judge.name}: cannot be loaded: {told(error)}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        raise JudgeError(
            f"judge {judge.name}: is no trained sequence classifier: {', '.join(missing[:3])} would be random; name a "
            "reward model or classifier"
        )
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    text_config = model.config.get_text_config()
    if getattr(text_config, "pad_token_id", None) is None:
        text_config.pad_token_id = tokenizer.pad_token_id
    return model.to(device).eval(), tokenizer


def _may_come_back(error: OSError) -> bool:
    """Whether it was the network and not the name; transformers hides the Hub's own error behind one of its own."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, _NOT_THERE) and not isinstance(link, LocalEntryNotFoundError):
            return False
        link = link.__cause__ or link.__context__
    return True


def _first_line(error: BaseException) -> str:
    return first_line(redact(str(error)), type(error).__name__)[:300]  # redacted before a secret is cut in two


def _output(judge: Judge, model: PreTrainedModel) -> tuple[int, bool]:
    """Which output is the reward, and whether it is one of classes that exclude each other."""
    config = model.config
    names = [str(config.id2label[i]) for i in range(config.num_labels)]
    wrong = label_problem(judge.label, names)
    if wrong:
        raise JudgeError(f"judge {judge.name}: evaluate.judge.label {wrong}")
    exclusive = len(names) > 1 and config.problem_type in (None, "single_label_classification")
    return label_number(judge.label, names), exclusive


def _longest(judge: Judge, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase) -> int:
    """Tokens of a text at most."""
    limits = [judge.max_length, tokenizer.model_max_length, getattr(model.config, "max_position_embeddings", None)]
    return min(int(limit) for limit in [*limits, _NO_LIMIT] if limit)


def _ids(
    judge: Judge, tokenizer: PreTrainedTokenizerBase, prompt: Text, completion: str, limit: int
) -> tuple[list[int], bool]:
    """Ids of a text, its last `limit`, and whether it had more. Texts are written as TRL's GRPOTrainer does for reward
    models: messages by the template, plain text one behind the other. Only the latter gets special tokens here, for
    classifiers that read theirs.
    """
    templated = isinstance(prompt, list) and bool(tokenizer.chat_template)
    if templated:
        messages = [*prompt, {"role": "assistant", "content": completion}]
        try:
            text = tokenizer.apply_chat_template(messages, tokenize=False)
        except (TemplateError, TypeError, ValueError) as error:
            raise JudgeError(f"judge {judge.name}: its chat template does not take the messages ({error})") from error
    else:
        text = f"{plain(prompt)}\nassistant: {completion}" if isinstance(prompt, list) else f"{prompt}{completion}"
    tokenizer.truncation_side = "left"  # what is judged stands last
    whole = tokenizer(text, add_special_tokens=not templated)["input_ids"]
    if len(whole) <= limit:
        return list(whole), False
    return list(tokenizer(text, add_special_tokens=not templated, truncation=True, max_length=limit)["input_ids"]), True


def _rewards(model: PreTrainedModel, rows: Sequence[list[int]], label: int, exclusive: bool) -> list[float]:
    """The reward of each row of ids, in the classifier's own precision whatever the policy is measured in."""
    padding = float(model.config.get_text_config().pad_token_id or 0)
    ids = pad_sequence([torch.tensor(row) for row in rows], batch_first=True, padding_value=padding)
    mask = pad_sequence([torch.ones(len(row), dtype=torch.long) for row in rows], batch_first=True)
    with torch.no_grad(), torch.autocast(model.device.type, enabled=False):
        output = model(input_ids=ids.to(model.device), attention_mask=mask.to(model.device))
    logits: Tensor = output.logits.double()
    reward = logits[:, label]
    if exclusive:
        others = [i for i in range(logits.shape[1]) if i != label]
        reward = reward - logits[:, others].logsumexp(-1)
    return [float(value) for value in reward.cpu()]
