"""What a worker keeps from one run to the next: base model, pairs, tokenised rows, the reference's numbers.

Each is found by the content that it depends on and dropped when room or another base is needed. Knows no loss and no
training.
"""

from __future__ import annotations

import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Generic, NamedTuple, TypeVar

import datasets
import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase, set_seed
from trl import DPOConfig, DPOTrainer, ModelConfig, get_quantization_config
from trl.trainer import dpo_trainer

from studies.records import JUDGE_CONTENT_FACT, JUDGE_FACT, MERGED_FACT, Judge, RunConfig, Scalar, digest
from trainers.components.base_memory import GIB, is_spread, refuse_judge, refuse_too_large, too_large
from trainers.components.settings import DAY, resolve_model
from trainers.components.start_check import precision_of
from trainers.data.pairs import Gold, Pairs, Prefer, load_pairs
from trainers.data.tables import as_table
from trainers.data.tokens import ids_of
from trainers.evaluation.evaluate import NonFinite, ReferenceNumbers, read_as_packed, reference_numbers
from trainers.evaluation.judges import at_content, load_judge, load_pairwise
from trainers.interface import LOADING, MEASURING_UNTRAINED, MODEL_SETTINGS, READING, REFERENCE
from trainers.models import accelerator
from trainers.models.merged import find_adapter, load_model, saveable, usable
from trainers.models.positions import check_positions
from trainers.models.random_numbers import RandomNumbers, go_on_from, random_numbers, same_numbers
from trainers.models.tokenizer import UnusableModel, check_ids, load_tokenizer
from trainers.multi_lora.drawing import Drawing
from trainers.multi_lora.layout import Pair, into_layout, make_pair
from trainers.multi_lora.linear import keep_layout
from trainers.multi_lora.transfer import Array
from trainers.reference.log_probs import Base, model_digest, reference_log_probs
from trainers.reference.store import ReferenceLogProbs, ReferenceStore

_TOKENISED: Final = ["prompt_ids", "chosen_ids", "rejected_ids"]
_KEPT_DATA: Final = 12
"""Blocks and scenarios whose pairs stay in memory: as many as runs of a pack may have between them."""


Value = TypeVar("Value")


class Recent(Generic[Value]):
    """The last few values by key."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[str, Value] = OrderedDict()

    def get(self, key: str, make: Callable[[], Value]) -> Value:
        if key not in self._values:
            self._values[key] = make()
        self._values.move_to_end(key)
        while len(self._values) > self._most:
            self._values.popitem(last=False)
        return self._values[key]

    def find(self, key: str) -> Value | None:
        return self._values.get(key)


class LaidOut(NamedTuple):
    """Training rows as a pack takes them, and the reference's log-probs of both sides [rows], in nats and on the host;
    NaN for rows that the run does not come to.
    """

    rows: tuple[Pair, ...]
    chosen: Array
    rejected: Array


_Base = tuple[str, PreTrainedModel, PreTrainedTokenizerBase]


def _lent(base: _Base) -> Callable[[], _Base | None]:
    """A base that is not held, for as long as somebody else holds it."""
    key, model, tokenizer = base
    held = weakref.ref(model)
    return lambda: None if (found := held()) is None else (key, found, tokenizer)


class DrawnSeed(NamedTuple):
    """Loading the base with this seed drew random numbers; `after`: where they had come to then."""

    seed: int
    after: RandomNumbers


class WarmDPOTrainer(DPOTrainer):  # type: ignore[misc]
    """DPOTrainer that takes rows which an earlier DPOTrainer of the same data has tokenised already."""

    def _prepare_dataset(
        self,
        dataset: datasets.Dataset,
        processing_class: PreTrainedTokenizerBase,
        args: DPOConfig,
        dataset_name: str,
    ) -> datasets.Dataset:
        if "prompt_ids" in dataset.column_names:
            return dataset
        return super()._prepare_dataset(dataset, processing_class, args, dataset_name)

    def _precompute_ref_logps(self, dataset: datasets.Dataset, name: str, batch_size: int) -> datasets.Dataset:
        """Leave TRL's own cache alone; `WorkerCache.with_reference` adds the columns."""
        return dataset


def _judge_beside(base: _Base | None, judge: Judge) -> Gold:
    """The judge, where there is room for it beside the base. Raises JudgeError."""
    if judge.reward_model is not None and base is not None and accelerator.kind() == "cuda":
        refuse_judge(judge.reward_model, base[1].get_memory_footprint() / GIB, accelerator.card_memory() / GIB)
    return load_judge(judge)


@contextmanager
def _just_loaded(drawn: DrawnSeed | None) -> Iterator[None]:
    """See `WorkerCache.just_loaded`."""
    own = dpo_trainer.get_peft_model

    def after_loading(*args: Any, **kwargs: Any) -> Any:
        if drawn is not None:
            go_on_from(drawn.after)
        return own(*args, **kwargs)

    dpo_trainer.get_peft_model = after_loading
    try:
        yield
    finally:
        dpo_trainer.get_peft_model = own


class WorkerCache:
    """Everything that successive runs of one worker share."""

    def __init__(
        self, say: Callable[[str], None] = lambda _: None, look: Callable[[str], None] = lambda _: None
    ) -> None:
        """`say` hears what takes long before a run begins, and "" at its end; `look`, which may raise, gets its key."""
        self._say, self._look = say, look
        self._base: _Base | None = None
        self._lent: Callable[[], _Base | None] = lambda: None
        self._drawn: DrawnSeed | None = None
        self.base_facts: Mapping[str, Scalar] = {}
        """Of the base: which adapter was merged into it, where one was."""
        self.forget_data()
        self._store: ReferenceStore | None = None
        self._reference = Base("", 0)
        self._judges: Recent[Gold] = Recent(1)
        self._pairwise: Recent[Prefer] = Recent(1)

    def forget_data(self) -> None:
        """Forget what is read again in little time."""
        self._pairs: Recent[Pairs] = Recent(_KEPT_DATA)
        self._rows: Recent[datasets.Dataset] = Recent(_KEPT_DATA)
        self._laid_rows: Recent[tuple[Pair, ...]] = Recent(_KEPT_DATA)
        self._laid_out: Recent[LaidOut] = Recent(_KEPT_DATA)
        self._numbers: Recent[ReferenceNumbers] = Recent(2 * _KEPT_DATA)
        self.drawings: list[Drawing] = []  # how adapters of runs on this base are drawn

    def forget(self) -> None:
        """Hold nothing that takes memory; a base that a pack still uses is found again, not loaded anew."""
        self.forget_data()
        self._judges = Recent(1)
        if self._base is not None:
            self._lent, self._base = _lent(self._base), None

    def drop_base(self) -> None:
        """Load the base anew for the next run: this one was changed."""
        self._base, self._lent = None, lambda: None

    def base(
        self, settings: Mapping[str, Any], args: DPOConfig, model_args: ModelConfig
    ) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
        """The base model as `trl dpo` would load it, from the last run where it is the same: where loading it draws
        random numbers, it is another one for each seed.
        """
        path = resolve_model(str(model_args.model_name_or_path))
        key = digest([path, {k: settings.get(k) for k in (*MODEL_SETTINGS, DAY)}])
        other_seed = self._drawn is not None and self._drawn.seed != args.seed
        self._base = self._base or self._lent()
        if self._base is None or self._base[0] != key or other_seed:
            self._base = None  # before the other is loaded: there may be room for one only
            self.forget_data()
            set_seed(args.seed)
            before = random_numbers()
            with self._saying(LOADING):
                model, tokenizer = load_base(path, args, model_args, settings.get(DAY))
            after = random_numbers()
            self._drawn = None if same_numbers(before, after) else DrawnSeed(args.seed, after)
            self._base = (key, model, tokenizer)
            adapter = find_adapter(path, model_args.model_revision)
            self.base_facts = {} if adapter is None else {MERGED_FACT: str(adapter)}
            self._reference = Base(model_digest(model), model.num_parameters())
        args.model_init_kwargs = None
        return self._base[1], self._base[2]

    @property
    def draws(self) -> bool:
        """Whether loading the base drew random numbers."""
        return self._drawn is not None

    def just_loaded(self) -> AbstractContextManager[None]:
        """Inside, a trainer draws its adapter as `trl dpo` does: with the numbers that follow what loading drew."""
        return _just_loaded(self._drawn)

    def pairs(self, config: RunConfig, settings: Mapping[str, Any], tokenizer: PreTrainedTokenizerBase) -> Pairs:
        """The run's pairs, none with a token that the base has no embedding for, with the judge of its study."""
        judge = config.evaluation.judge
        pairs = self._pairs.get(data_key(config, settings), lambda: self._load_pairs(config, tokenizer))
        return pairs if judge is None else self._judged(pairs, judge, config.judge_content)

    def _judged(self, pairs: Pairs, judge: Judge, content: str | None) -> Pairs:
        """The pairs with a judge of this content, which is loaded for the first run that has it."""
        pinned, known = at_content(judge, content), {} if content is None else {JUDGE_CONTENT_FACT: content}
        key, facts = digest([pinned.model_dump(mode="json"), content]), {**pairs.facts, JUDGE_FACT: judge.name, **known}
        if judge.pairwise is not None:
            return replace(pairs, prefer=self._pairwise.get(key, lambda: load_pairwise(judge)), facts=facts)
        return replace(pairs, gold=self._judges.get(key, lambda: _judge_beside(self._base, pinned)), facts=facts)

    @contextmanager
    def _saying(self, what: str) -> Iterator[None]:
        self._say(what)
        try:
            yield
        finally:
            self._say("")

    def _load_pairs(self, config: RunConfig, tokenizer: PreTrainedTokenizerBase) -> Pairs:
        with self._saying(READING):
            pairs = load_pairs(config.data, config.block, tokenizer)
        model = self._base[1] if self._base is not None else None
        if model is not None and len(tokenizer) > model.get_input_embeddings().weight.shape[0]:
            for ids in ids_of((*pairs.train, *pairs.evaluation), pairs.prompts, tokenizer):
                check_ids(ids, model, tokenizer)
        return pairs

    def training_rows(self, config: RunConfig, settings: Mapping[str, Any], pairs: Pairs) -> datasets.Dataset:
        """Rows to construct a trainer with: tokenised ones where there are, see `keep_rows`."""
        return self._rows.find(data_key(config, settings)) or as_table(pairs.train)

    def keep_rows(self, config: RunConfig, settings: Mapping[str, Any], trainer: DPOTrainer) -> None:
        """Keep what a trainer has tokenised. Only that: precomputed log-probs depend on more than the data."""
        self._rows.get(data_key(config, settings), lambda: trainer.train_dataset.select_columns(_TOKENISED))

    def numbers(
        self,
        config: RunConfig,
        settings: Mapping[str, Any],
        args: DPOConfig,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        pairs: Pairs,
        *,
        packed: bool = False,
    ) -> ReferenceNumbers:
        """The untrained model's numbers on the evaluation data: once per base, pairs, evaluation and precision.

        In the precision that the policy is measured in, and where that is a coarse one also in its layout, `packed` or
        not: the Trainer puts the policy's forward under autocast, and an untrained adapter must show no shift. Raises
        Unpackable.
        """
        evaluation = [config.evaluation.model_dump(mode="json"), config.judge_content]
        key = digest([data_key(config, settings), evaluation, args.bf16, args.fp16, args.tf32])
        packed = packed and precision_of(model, args) in (torch.bfloat16, torch.float16)
        look = partial(self._look, config.key)

        def measure() -> ReferenceNumbers:
            check_positions(model, tokenizer, pairs, config.evaluation, args.max_length)
            precision = torch.float16 if args.fp16 else torch.bfloat16
            autocast = torch.autocast(args.device.type, precision, enabled=bool(args.bf16 or args.fp16))
            try:
                with autocast, self._saying(MEASURING_UNTRAINED):
                    if packed:
                        with into_layout():
                            return read_as_packed(plain, model, look)
                    return reference_numbers(model, tokenizer, pairs, config.evaluation, look)
            except NonFinite as error:
                raise UnusableModel(
                    f"model {model.name_or_path}: its logits are not finite before it is trained. Take another "
                    "precision, such as dtype: bfloat16, or load its weights again"
                ) from error

        if packed:
            plain = self.numbers(config, settings, args, model, tokenizer, pairs)
        return self._numbers.get(key + " packed" * packed, measure)

    def laid_out(
        self,
        config: RunConfig,
        settings: Mapping[str, Any],
        trainer: DPOTrainer,
        folder: Path,
        dtype: torch.dtype,
        used: Sequence[int],
    ) -> LaidOut:
        """A pack's form of the trainer's rows, with the reference log-probs of the `used` ones from the store in
        `folder`: a run of a few steps of a large model must not wait for the reference of all the data.
        """
        args, limit = trainer.args, _limit(trainer.args)
        data = digest([data_key(config, settings), args.truncation_mode])

        def lay_rows() -> tuple[Pair, ...]:
            columns = (trainer.train_dataset[name][:] for name in ("prompt_ids", "chosen_ids", "rejected_ids"))
            return tuple(make_pair(p, c, r, limit) for p, c, r in zip(*columns, strict=True))

        def lay_out() -> LaidOut:
            base = trainer.model.get_base_model()  # no adapter is in it now
            known = self._log_probs(config.key, trainer, base, folder, used)
            sides = (torch.tensor(side, dtype=dtype).numpy() for side in known)
            return LaidOut(self._laid_rows.get(data, lay_rows), *sides)

        precision = [args.bf16, args.fp16, args.tf32]
        return self._laid_out.get(digest([data, args.ld_alpha, *precision, str(folder), list(used)]), lay_out)

    def with_reference(self, key: str, trainer: DPOTrainer, folder: Path) -> datasets.Dataset:
        """The rows of a run's trainer with their reference log-probs, in the columns that TRL's loss reads."""
        rows = trainer.train_dataset
        known = self._log_probs(key, trainer, trainer.model, folder, range(len(rows)))
        return rows.add_column("ref_chosen_logps", known.chosen).add_column("ref_rejected_logps", known.rejected)

    def _log_probs(
        self, key: str, trainer: DPOTrainer, policy: Any, folder: Path, used: Sequence[int]
    ) -> ReferenceLogProbs:
        """From the store in `folder`, which a study's runs share."""
        if self._store is None or self._store.folder != folder:
            self._store = ReferenceStore(folder)
        off = policy.disable_adapter() if isinstance(policy, PeftModel) else nullcontext()
        with off, self._saying(REFERENCE):
            say, look = (lambda done: self._say(f"{REFERENCE}: {done} answers")), partial(self._look, key)
            of_run = (trainer.train_dataset, used, policy, self._reference, trainer.args)
            return reference_log_probs(*of_run, self._store, say, look)


def _limit(args: DPOConfig) -> slice:
    """What is left of a row's token ids, as TRL's collator cuts them."""
    if args.max_length is None:
        return slice(None)
    return slice(args.max_length) if args.truncation_mode == "keep_start" else slice(-args.max_length, None)


def load_base(
    path: str, args: DPOConfig, model_args: ModelConfig, day: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """The base model as `trl dpo` loads it with the seed of `args`, on its device, and its tokenizer, told the `day`.
    Raises UnusableModel.
    """
    kwargs: dict[str, Any] = {
        "trust_remote_code": args.trust_remote_code,
        "attn_implementation": model_args.attn_implementation,
        "dtype": model_args.dtype,
        **(args.model_init_kwargs or {}),
    }
    revision = kwargs.pop("revision", model_args.model_revision)
    quantization = get_quantization_config(model_args)
    if quantization is not None:
        kwargs["quantization_config"] = quantization
    settings = {
        **{name: getattr(model_args, name, None) for name in ("model_revision", "load_in_4bit", "load_in_8bit")},
        **{"model_name_or_path": path, "dtype": kwargs["dtype"]},
    }
    on_gpu = accelerator.kind() == "cuda" and not args.use_cpu and "device_map" not in kwargs
    if on_gpu:
        accelerator.free_memory()  # what the allocator keeps counts as taken where a model is placed
        refuse_too_large(settings, accelerator.card_memory() / GIB, accelerator.free_card_memory() / GIB)
    with usable(path):
        tokenizer = load_tokenizer(path, model_args.model_revision, args.trust_remote_code, day)
        set_seed(args.seed)  # as TRL: weights that are not in the checkpoint are drawn
        model = load_model(path, revision, kwargs)
        keep_layout(model)
        model.generation_config = saveable(model.generation_config)
        check_ids([tokenizer.eos_token_id, tokenizer.pad_token_id], model, tokenizer)
        if on_gpu and is_spread(getattr(model, "hf_device_map", None)):
            card = accelerator.card_memory() / GIB
            raise UnusableModel(too_large(settings, model.get_memory_footprint() / GIB, card))
    if getattr(model, "hf_device_map", None) is None:  # else it is placed, and a quantized one cannot be moved
        model.to(args.device)
    return model, tokenizer


def data_key(config: RunConfig, settings: Mapping[str, Any]) -> str:
    """What the tokenised training rows depend on, beside the tokenizer, which changes with the base."""
    limits = [settings.get(name) for name in ("max_length", "truncation_mode", "pad_token")]
    return digest([config.data.model_dump(mode="json"), config.block, limits])
