"""The config of a run: all that decides what it trains on, how, and how it is measured."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from studies.records.metrics import FIRST_EVALUATOR, evaluator

Scalar = float | int | str | bool | None


COMMIT = "commit:"


"""Begins the content of what lies on the Hub: the commit that its name and revision stood for."""


EMBEDDED = "embedded"
"""The embedded model, a Llama, and `DataConfig.path` of the embedded world."""


EMBEDDED_GPT2 = "embedded-gpt2"
"""Its twin of another architecture."""


EMBEDDED_MODELS = (EMBEDDED, EMBEDDED_GPT2)
"""The models that come with the project. Each writes its own pairs: in a run, `DataConfig.path` says whose they are."""


REPLICATE_BLOCKS = 100
"""The first block of replicates; in the embedded world they have gold tasks of their own."""


class Frozen(BaseModel):
    """Base of the types that cross a border as JSON: unknown keys are refused, fields cannot be assigned."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class DataConfig(Frozen):
    """The preference pairs of one run: where from, how many, how long, and what a scenario does to them.

    `rows`/`eval_rows`: pairs kept (None: all / a tenth, at most 1000). Lengths are in tokens. `label_flip` is the
    share of *training* pairs whose chosen and rejected answers are exchanged, and `flip_by` which: any, or those whose
    rejected answer is the longer one first, as by a labeller who prefers length. `rejected_from`: whether a training
    pair keeps its rejected answer or is dealt one of another prompt. For the embedded world only: `rejected_from:
    model`, a sample of the untrained model for the same prompt, which is what good answers alone leave one to do
    (SPIN, arXiv 2401.01335); `pairs_from`, whether the pairs come from the model itself or a better or worse writer;
    and `gold`, whether the true worth of an answer is the task's alone or hangs on the prompt too.
    `bad_rows`: whether a row that teaches nothing or cannot be read refuses the data, or is left out and counted.
    `columns`: where the data has other names for `prompt`, `chosen` and `rejected`, those (of `prompt` null: there is
    none, it is the common beginning of the answers). `messages`: whether rows of messages go through the model's chat
    template, or are written as plain text (`User: ...`, `Assistant: ...`), as for a model without a template. Read as
    messages too, and said so: lists as JSON text, `from` and `value` as in ShareGPT, content in parts that are all
    text, one message where a list should be, a list under `messages` in an object, and plain text where the other side
    of a row is messages.

    A default here says what was done before there was the field, and stays: `RunConfig.key` leaves defaults out.
    """

    path: str = EMBEDDED
    name: str | None = None
    revision: str | None = None
    split: str = "train"
    eval_split: str | None = None
    rows: int | None = None
    eval_rows: int | None = None
    max_prompt_length: int | None = None
    max_completion_length: int | None = None
    max_length: int | None = 1024
    label_flip: float = 0.0
    flip_by: Literal["chance", "length"] = "chance"
    rejected_from: Literal["own", "another", "model"] = "own"
    pairs_from: str = "same"
    gold: Literal["task", "prompt"] = "task"
    bad_rows: Literal["refuse", "drop"] = "refuse"
    columns: Mapping[Literal["prompt", "chosen", "rejected"], str | None] = {}
    messages: Literal["template", "text"] = "template"


class Judge(Frozen):
    """Who says what a sample is worth where the data do not: exactly one of a reward model, a Python function, and a
    Python function that compares two answers.

    `reward_model`: Hub id or folder of a sequence classifier. Prompt and completion go to it as one text, messages
    through its own chat template; `max_length`: tokens of it, the last ones of a longer text (None: what the model
    takes); `batch_size`: texts in a forward pass; `label`: the class, by name or number, whose output is the reward
    (None: the only one, or the second of two). The output is a logit where there is one class or they do not exclude
    one another, else the log-odds of the class in nats. `trust_remote_code`: run the code that lies with it.
    `function`: `module:name`, found from the working folder and called as TRL's reward functions are
    (`trl/trainer/grpo_trainer.py`), by name and with nothing else: `name(prompts=[...], completions=[...])` gives a
    number for each. `pairwise`: `module:name` as well, called by name as `name(prompts=[...], answers_a=[...],
    answers_b=[...])`; gives for each by how much the first answer is preferred, 0 to 1. It is asked in both orders, and
    where these contradict each other it is a tie; it gives win rates and no gold. `revision`: of the reward model; of a
    function, a mark of its version that changes with its code.
    """

    reward_model: str | None = None
    function: str | None = None
    pairwise: str | None = None
    revision: str | None = None
    label: int | str | None = None
    max_length: int | None = None
    batch_size: int = 16
    trust_remote_code: bool = False

    @property
    def name(self) -> str:
        """All of it that changes a number, in words: what tells one judge from another."""
        who = f"reward model {self.reward_model}" if self.reward_model else f"function {self.function}"
        who = f"pairwise function {self.pairwise}" if self.pairwise else who
        given = {"revision": self.revision, "label": self.label, "max_length": self.max_length}
        return ", ".join([who, *(f"{key} {value}" for key, value in given.items() if value is not None)])


class Check(Frozen):
    """Something else that samples must not lose: a Python function `module:name`, called as a judge's `function` is,
    that gives each sample 0 to 1, such as 1 where it is right. It chooses nothing: it is the price of what is chosen.
    """

    function: str

    @property
    def judge(self) -> Judge:
        """The same as a judge."""
        return Judge(function=self.function)


class EvaluationConfig(Frozen):
    """What is measured of a trained adapter, and when.

    `at`: shares of the training steps at which it is measured (1.0 is always among them). `prompts`: prompts
    sampled once each; `max_new_tokens`: length cap of a sample; `pairs`: held-out pairs used (None: all).
    `batch_size`: most rows in a forward pass, which bounds memory; where a row takes little, more go in one.
    `margin`: nats from which on a pair counts in `margin_share`; `judge`: gives samples their gold reward where the
    data have none. `second_judge` chooses nothing: it is told beside the first, and where the two part, that is said.
    `check`: what samples must not lose. Both look at all samples of the judging runs, once these have ended. Defaults
    stay, as in `DataConfig`.
    """

    at: tuple[float, ...] = (1.0,)
    prompts: int = 256
    max_new_tokens: int = 256
    pairs: int | None = None
    batch_size: int = 64
    margin: float = 2.0
    judge: Judge | None = None
    second_judge: Judge | None = None
    check: Check | None = None

    @property
    def judges(self) -> dict[str, Judge]:
        """All who look at samples, by their keys in a study file."""
        check = None if self.check is None else self.check.judge
        found = {"judge": self.judge, "second_judge": self.second_judge, "check": check}
        return {key: judge for key, judge in found.items() if judge is not None}

    @property
    def unjudged(self) -> EvaluationConfig:
        """The same without those who look at samples: what is sampled, and when."""
        return self.model_copy(update={"judge": None, "second_judge": None, "check": None})


class RunConfig(Frozen):
    """One training of a trial, fully resolved: nothing that changes its numbers lies outside of it.

    `settings` are flat TRL names, those that `export` writes; `knobs` names the ones that the study varies. `balance`:
    the `loss_weights` among the settings are shares of the gradient before training, from which the trainer makes the
    weights (None: they are the weights). `content`: what its sources hold, by role (see `studies.schema.contents`), as
    far as it is known; `judge_content`: what its judge does, `opinions`: what its second judge and its check do, by
    their keys in a study file.
    """

    study: str
    variant: str
    scenario: str
    trial: int
    block: int
    seed: int
    trainer: str = "dpo"
    settings: Mapping[str, Any]
    knobs: Mapping[str, Scalar]
    data: DataConfig
    evaluation: EvaluationConfig
    evaluator: str = Field(default_factory=evaluator)
    judge_content: str | None = None
    opinions: Mapping[str, str] = {}
    balance: Literal["gradient"] | None = None
    content: Mapping[str, str] = {}

    @property
    def key(self) -> str:
        """Digest of all that determines what is trained, as 12 hexadecimal digits: the run's identity.

        Data, evaluation and balance count by what differs from their defaults, so that a field which they get later,
        and which a run does not use, leaves it the run that it was. Where content is known it counts, and not the path
        that it lies at. Who measures and judges does not count: that makes no other adapter.
        """
        return self._digest(self.evaluation.unjudged, self._draw)

    @property
    def key_of_first_tasks(self) -> str | None:
        """The key that the run had while replicates of the embedded world shared the tasks of all other blocks, and so
        were other runs; None for a run that is what it was.
        """
        return self._digest(self.evaluation.unjudged, {}) if self._draw else None

    @property
    def _draw(self) -> dict[str, str]:
        is_replicate = self.data.path in EMBEDDED_MODELS and self.block >= REPLICATE_BLOCKS
        return {"task": "of replicates"} if is_replicate else {}

    @property
    def earlier_keys(self) -> frozenset[str]:
        """Keys that the run may have in a store of format 1, which knew no content and counted the judge."""
        bare = self.model_copy(update={"content": {}})
        judged = self.evaluation.unjudged.model_copy(update={"judge": self.evaluation.judge})
        return frozenset({bare.key, bare._digest(judged, self._draw)})

    def _digest(self, evaluation: EvaluationConfig, draw: Mapping[str, str]) -> str:
        determined_by = self.model_dump(mode="json", include={"trainer", "settings", "block", "seed"})
        determined_by |= {"evaluator": FIRST_EVALUATOR, **draw}
        determined_by |= self.model_dump(mode="json", include={"balance"}, exclude_defaults=True)
        here = {role: text for role, text in self.content.items() if not text.startswith(COMMIT)}
        if here:  # a commit stands among the settings or the data, as their revision
            determined_by["content"] = here
        for name, part in (("data", self.data), ("evaluation", evaluation)):
            determined_by[name] = part.model_dump(mode="json", exclude_defaults=True)
        if "base" in here:
            del determined_by["settings"]["model_name_or_path"]
        for role, name in (("data", "path"), ("eval_data", "eval_split")):
            if role in here:
                del determined_by["data"][name]
        return digest(determined_by)

    @property
    def stratum(self) -> str:
        """Name of the Optuna study that this run's trial belongs to."""
        return f"{self.study}/{self.variant}/{self.scenario}"


def digest(value: Any) -> str:
    """First 12 hexadecimal digits of the SHA-256 of `value` written as canonical JSON."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
