"""The flat names that `trl dpo --config` accepts, their simple types, and what became of names that it dropped.

Plain data and coercion: loads neither TRL nor transformers, and does not know which loss a setting acts on
(`studies/losses/table.py` does). `tests/studies/losses/test_trl_settings.py` holds it against the installed TRL.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, NamedTuple


def _words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


# Simple type -> names: the fields of TRL's ScriptArguments, DPOConfig, ModelConfig and DatasetMixtureConfig, with
# unions sorted and `?` where None is allowed.
_NAMES: Mapping[str, str] = {
    "str?": """
        dataset_name dataset_config output_dir optim_args torch_compile_backend torch_compile_mode
        run_name trackio_space_id trackio_bucket_id hub_token hub_model_id hub_revision
        metric_for_best_model dataloader_multiprocessing_context ddp_backend fsdp
        resume_from_checkpoint pad_token model_name_or_path dtype attn_implementation
        bnb_4bit_quant_storage
    """,
    "str": """
        dataset_train_split dataset_test_split lr_scheduler_type optim logging_strategy log_level
        log_level_replica project eval_strategy save_strategy hub_strategy train_sampling_strategy
        length_column_name truncation_mode f_divergence_type model_revision lora_task_type
        bnb_4bit_quant_type
    """,
    "bool": """
        dataset_streaming ignore_bias_buffers average_tokens_across_devices fp16 bf16_full_eval
        fp16_full_eval gradient_checkpointing torch_compile use_liger_kernel use_cache
        auto_find_batch_size logging_first_step log_on_each_node logging_nan_inf_filter
        prediction_loss_only eval_on_start eval_do_concat_batches eval_use_gather_object
        batch_eval_metrics save_only_model save_on_each_node enable_jit_checkpoint push_to_hub
        hub_always_push load_best_model_at_end ignore_data_skip
        restore_callback_states_from_checkpoint full_determinism use_cpu dataloader_drop_last
        dataloader_pin_memory dataloader_persistent_workers dataloader_in_order
        remove_unused_columns skip_memory_metrics do_train do_eval do_predict trust_remote_code
        disable_dropout padding_free precompute_ref_log_probs use_weighting activation_offloading
        sync_ref_model use_peft use_rslora use_dora load_in_8bit load_in_4bit use_bnb_nested_quant
        streaming
    """,
    "bool?": """
        bf16 tf32 activation_checkpointing disable_tqdm hub_private_repo greater_is_better
        ddp_find_unused_parameters ddp_broadcast_buffers ddp_static_graph
    """,
    "bool|str": "include_num_input_tokens_seen",
    "bool|str?": "trackio_static_space_id",
    "int": """
        per_device_train_batch_size max_steps gradient_accumulation_steps per_device_eval_batch_size
        seed dataloader_num_workers ddp_timeout local_rank ref_model_sync_steps lora_r lora_alpha
    """,
    "int?": """
        torch_empty_cache_steps eval_accumulation_steps save_total_limit data_seed
        dataloader_prefetch_factor ddp_bucket_cap_mb dataset_num_proc max_length
        precompute_ref_batch_size
    """,
    "int|str?": "pad_to_multiple_of",
    "float": """
        num_train_epochs learning_rate warmup_steps weight_decay adam_beta1 adam_beta2 adam_epsilon
        max_grad_norm label_smoothing_factor logging_steps eval_delay save_steps
        f_alpha_divergence_coef label_smoothing beta discopop_tau ref_model_mixup_alpha lora_dropout
    """,
    "float?": "neftune_noise_alpha eval_steps router_aux_loss_coef ld_alpha test_split_size",
    "list": "include_for_metrics loss_type datasets",
    "list?": "label_names loss_weights lora_target_modules lora_target_parameters lora_modules_to_save",
    "list|str": "debug",
    "list|str?": "optim_target_modules report_to",
    "dict?": "liger_kernel_config",
    "dict|str?": """
        lr_scheduler_kwargs activation_checkpointing_kwargs gradient_checkpointing_kwargs
        accelerator_config fsdp_config deepspeed model_init_kwargs
    """,
    "object?": "parallelism_config",
}

TYPES: Mapping[str, str] = {name: kind for kind, names in _NAMES.items() for name in names.split()}

CHOICES: Mapping[str, tuple[str, ...]] = {
    "dtype": ("auto", "bfloat16", "float16", "float32"),
    # What comes with transformers or is installed; ORG/NAME would fetch native code from the Hub.
    "attn_implementation": _words("""eager sdpa flash_attention_2 flash_attention_3 flash_attention_4
        flex_attention"""),
    "torch_compile_backend": _words("inductor cudagraphs eager aot_eager openxla ipex hpu_backend"),
    "torch_compile_mode": _words("default reduce-overhead max-autotune max-autotune-no-cudagraphs"),
    "dataloader_multiprocessing_context": ("fork", "spawn", "forkserver"),
    "ddp_backend": _words("nccl gloo mpi xccl ccl hccl cncl mccl"),
    "bnb_4bit_quant_storage": _words("uint8 int8 float16 float32 float64 bfloat16"),
    "lora_task_type": _words("SEQ_CLS SEQ_2_SEQ_LM CAUSAL_LM TOKEN_CLS QUESTION_ANS FEATURE_EXTRACTION"),
    "truncation_mode": ("keep_end", "keep_start"),
    "bnb_4bit_quant_type": ("fp4", "nf4"),
    "train_sampling_strategy": ("random", "sequential", "group_by_length", "batch_rebalance"),
    "f_divergence_type": ("reverse_kl", "forward_kl", "js_divergence", "alpha_divergence"),
    "lr_scheduler_type": _words("""linear cosine cosine_with_restarts polynomial constant constant_with_warmup
        inverse_sqrt reduce_lr_on_plateau cosine_with_min_lr cosine_warmup_with_min_lr warmup_stable_decay greedy"""),
    "optim": _words("""adamw_torch adamw_torch_fused adamw_torch_xla adamw_torch_npu_fused adafactor adamw_anyprecision
        adamw_torch_4bit adamw_torch_8bit ademamix sgd adagrad adamw_bnb_8bit adamw_8bit ademamix_8bit lion_8bit
        lion_32bit paged_adamw_32bit paged_adamw_8bit paged_ademamix_32bit paged_ademamix_8bit paged_lion_32bit
        paged_lion_8bit rmsprop rmsprop_bnb rmsprop_bnb_8bit rmsprop_bnb_32bit galore_adamw galore_adamw_8bit
        galore_adafactor galore_adamw_layerwise galore_adamw_8bit_layerwise galore_adafactor_layerwise lomo
        adalomo grokadamw schedule_free_radam schedule_free_adamw schedule_free_sgd apollo_adamw
        apollo_adamw_layerwise stable_adamw"""),
}
_WHY: Mapping[str, str] = {
    "attn_implementation": ": a kernel by another name is native code that would be fetched from elsewhere",
}


class Bound(NamedTuple):
    """An interval of numbers that make sense; an end is left out of it where `open_low` or `open_high`."""

    low: float
    high: float = float("inf")
    open_low: bool = False
    open_high: bool = False

    def holds(self, value: float) -> bool:
        """Whether `value` lies in the interval; NaN never does."""
        above = value > self.low if self.open_low else value >= self.low
        below = value < self.high if self.open_high else value <= self.high
        return above and below

    def __str__(self) -> str:
        if self.high == float("inf"):
            return f"{'above' if self.open_low else 'at least'} {self.low:g}"
        return f"in {'(' if self.open_low else '['}{self.low:g}, {self.high:g}{')' if self.open_high else ']'}"


BOUNDS: Mapping[str, Bound] = {
    "learning_rate": Bound(0.0, open_low=True),
    "weight_decay": Bound(0.0),
    "max_grad_norm": Bound(0.0),
    "warmup_steps": Bound(0.0),
    "num_train_epochs": Bound(0.0, open_low=True),
    "max_steps": Bound(-1),
    "per_device_train_batch_size": Bound(1),
    "gradient_accumulation_steps": Bound(1),
    "lora_r": Bound(1),
    "lora_alpha": Bound(1),
    "lora_dropout": Bound(0.0, 1.0, open_high=True),
    "adam_beta1": Bound(0.0, 1.0, open_high=True),
    "adam_beta2": Bound(0.0, 1.0, open_high=True),
    "adam_epsilon": Bound(0.0),
    "max_length": Bound(2),
}

# What each run's folder, logs, checkpoints and uploads are called and how often they are written is decided by the
# sweep; none of it changes a number of the run.
OWNED: Mapping[str, str] = {
    **dict.fromkeys(
        _words("""output_dir report_to run_name project trackio_space_id trackio_bucket_id trackio_static_space_id
        logging_strategy logging_steps logging_first_step log_on_each_node logging_nan_inf_filter log_level
        log_level_replica disable_tqdm include_num_input_tokens_seen"""),
        "the sweep names and logs its runs itself",
    ),
    **dict.fromkeys(
        _words("""eval_strategy eval_steps eval_delay eval_on_start per_device_eval_batch_size prediction_loss_only
        eval_do_concat_batches eval_use_gather_object eval_accumulation_steps include_for_metrics
        batch_eval_metrics load_best_model_at_end metric_for_best_model greater_is_better bf16_full_eval
        fp16_full_eval do_train do_eval do_predict"""),
        "what is measured, and when, is said under `evaluate`",
    ),
    **dict.fromkeys(
        _words("""save_only_model save_strategy save_steps save_on_each_node save_total_limit enable_jit_checkpoint
        resume_from_checkpoint restore_callback_states_from_checkpoint ignore_data_skip"""),
        "what is kept of a run is said under `output.keep`",
    ),
    **dict.fromkeys(
        _words("""push_to_hub hub_token hub_private_repo hub_model_id hub_strategy hub_always_push
        hub_revision"""),
        "a sweep uploads nothing; upload the model that you export",
    ),
    "accelerate_config": "the sweep starts its workers itself (`resources`)",
    "num_processes": "the sweep starts its workers itself (`resources`)",
    "num_machines": "the sweep starts its workers itself (`resources`)",
    "mixed_precision": "precision is said by bf16, fp16 and dtype",
    "local_rank": "the sweep starts its workers itself (`resources`)",
    "env": "environment variables are not set by a study: export them in the shell that starts the sweep",
}

# Old name -> new name, where the value keeps its meaning.
RENAMED: Mapping[str, str] = {
    "torch_dtype": "dtype",
    "warmup_ratio": "warmup_steps",  # transformers 5: a warmup_steps below 1 is a share of all steps
    "no_cuda": "use_cpu",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "evaluation_strategy": "eval_strategy",
}

# Dropped names that changed no number: left out with a notice.
DROPPED: Mapping[str, str] = dict.fromkeys(
    _words("""overwrite_output_dir save_safetensors logging_dir use_mps_device ray_scope push_to_hub_token
    push_to_hub_model_id push_to_hub_organization jit_mode_eval use_ipex half_precision_backend fp16_backend
    fp16_opt_level per_gpu_eval_batch_size include_inputs_for_metrics mp_parameters torchdynamo past_index
    use_legacy_prediction_loop dataloader_pin_memory_device padding_value label_pad_token_id is_encoder_decoder
    generate_during_eval use_logits_to_keep use_num_logits_to_keep use_liger_loss sanity_check
    gradient_checkpointing_use_reentrant split_batches dispatch_batches tpu_num_cores tpu_metrics_debug xpu_backend
    include_tokens_per_second n_gpu _n_gpu"""),
    "newer releases dropped it; it changes nothing here",
)

# Names that cannot be translated, with the remedy.
REFUSED: Mapping[str, str] = {
    "rpo_alpha": "TRL dropped it: write loss_type: [sigmoid, sft] with loss_weights: [1.0, <rpo_alpha>]",
    "reference_free": "TRL dropped it: every loss here is measured against the reference",
    "label_smoothing_factor": (
        "it belongs to the ordinary Trainer loss and does nothing in DPO; write label_smoothing, which acts on "
        "robust, exo_pair, aot and aot_unpaired"
    ),
    "ref_model_init_kwargs": "TRL dropped it: the reference is the base model itself",
    "model_adapter_name": "TRL dropped it: a run trains one new adapter",
    "ref_adapter_name": "TRL dropped it: the reference is the base model itself",
    "force_use_ref_model": "TRL dropped it: the reference is the base model itself",
    "base_model_attribute_name": "TRL dropped it",
    "max_target_length": "TRL dropped encoder-decoder models: use data.max_completion_length",
    "group_by_length": "transformers 5 dropped it: write train_sampling_strategy: group_by_length",
    "adafactor": "transformers 5 dropped it: write optim: adafactor",
    "use_flash_attention_2": "it was dropped: write attn_implementation: flash_attention_2",
    "tokenizer_name_or_path": "`trl dpo` takes the tokenizer that lies with the model",
    "chat_template": "`trl dpo` takes the chat template that lies with the model's tokenizer",
    "deepspeed": "a run takes one device for now; leave it out",
    "fsdp": "a run takes one device for now; leave it out",
    "fsdp_config": "a run takes one device for now; leave it out",
    "fsdp_min_num_params": "a run takes one device for now; leave it out",
    "fsdp_transformer_layer_cls_to_wrap": "a run takes one device for now; leave it out",
    "sharded_ddp": "a run takes one device for now; leave it out",
    "tools": "pairs with tools are not supported yet",
    "parallelism_config": "a run takes one device for now; leave it out",
    "auto_find_batch_size": "it changes the batch size behind the sweep's back; give per_device_train_batch_size",
    "gpus_per_run": "write resources: {gpus_per_run: ...}",
}

# What older releases wrote out for such a setting where nobody had set it, beside what is empty: a dump of all of their
# settings is no wish for any of these.
UNSET: Mapping[str, tuple[Any, ...]] = {
    **dict.fromkeys(
        _words("""do_train do_eval do_predict prediction_loss_only eval_on_start batch_eval_metrics
        eval_use_gather_object load_best_model_at_end bf16_full_eval fp16_full_eval logging_first_step disable_tqdm
        include_num_input_tokens_seen save_only_model save_on_each_node restore_callback_states_from_checkpoint
        ignore_data_skip enable_jit_checkpoint push_to_hub hub_private_repo hub_always_push overwrite_output_dir
        use_mps_device jit_mode_eval use_ipex use_legacy_prediction_loop include_inputs_for_metrics
        include_tokens_per_second is_encoder_decoder generate_during_eval use_logits_to_keep use_num_logits_to_keep
        use_liger_loss sanity_check gradient_checkpointing_use_reentrant split_batches tpu_metrics_debug"""),
        (False,),
    ),
    **dict.fromkeys(
        _words("log_on_each_node logging_nan_inf_filter eval_do_concat_batches save_safetensors"),
        (True,),
    ),
    "report_to": ("all",),
    "project": ("huggingface",),
    "trackio_space_id": ("trackio",),
    "logging_strategy": ("steps",),
    "logging_steps": (500,),
    "log_level": ("passive",),
    "log_level_replica": ("warning",),
    "eval_strategy": ("no", False),  # YAML reads a bare `no` as false
    "eval_delay": (0,),
    "per_device_eval_batch_size": (8,),
    "save_strategy": ("steps",),
    "save_steps": (500,),
    "hub_strategy": ("every_save",),
    "hub_token": ("<HUB_TOKEN>",),
    "push_to_hub_token": ("<PUSH_TO_HUB_TOKEN>",),
    "local_rank": (-1, 0),
    "half_precision_backend": ("auto",),
    "fp16_backend": ("auto",),
    "fp16_opt_level": ("O1",),
    "ray_scope": ("last",),
    "past_index": (-1,),
    "label_pad_token_id": (-100,),
    "base_model_attribute_name": ("model",),
}

# A switch, and what a dump in which it is off says unasked of the settings that it switches.
SWITCHED_OFF: Mapping[str, Mapping[str, tuple[Any, ...]]] = {
    "use_peft": {"lora_r": (16,), "lora_alpha": (32,), "lora_dropout": (0.05,), "lora_task_type": ("CAUSAL_LM",)},
    "f_divergence_type": {"f_alpha_divergence_coef": (1.0, 0.5)},
}

# Names that say what the data is; they fill in `data` where the study file leaves it open.
DATA: Mapping[str, str] = {
    "dataset_name": "path",
    "dataset_config": "name",
    "dataset_train_split": "split",
    "dataset_test_split": "eval_split",
    "max_prompt_length": "max_prompt_length",
    "max_completion_length": "max_completion_length",
    "max_length": "max_length",
}

_NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")


def allows_none(name: str) -> bool:
    """Whether TRL gives the setting `name` a meaning for null."""
    return TYPES.get(name, "").endswith("?")


def coerce(name: str, value: Any) -> Any:
    """`value` in the type that TRL declares for `name`, where that is possible without guessing; else unchanged.

    YAML reads `1e-5` as a string (it wants `1.0e-5`); a whole number for a float setting becomes a float, so that
    `3` and `3.0` are one identity; a single name for a list setting becomes a list of one.
    """
    kind = TYPES.get(name, "").rstrip("?")
    if kind in ("float", "int") and isinstance(value, str) and _NUMBER.fullmatch(value.strip()):
        value = float(value)
    if isinstance(value, bool) or value is None:
        return value
    if kind == "float" and isinstance(value, int):
        return float(value)
    if kind == "int" and isinstance(value, float) and value.is_integer():
        return int(value)
    if kind == "list" and isinstance(value, str):
        return [value]
    return list(value) if kind == "list" and isinstance(value, tuple) else value


def type_problem(name: str, value: Any) -> str | None:
    """What is wrong with the type or choice of a coerced value of the TRL setting `name`; None where it is right."""
    kind = TYPES[name]
    if value is None:
        return None if kind.endswith("?") else "must not be null"
    if "object" in kind:
        return None
    accepted = kind.rstrip("?").split("|")
    fits = {
        "str": isinstance(value, str),
        "bool": isinstance(value, bool),
        "int": isinstance(value, int) and not isinstance(value, bool),
        "float": isinstance(value, int | float) and not isinstance(value, bool),
        "list": isinstance(value, list | tuple),
        "dict": isinstance(value, Mapping),
    }
    if not any(fits[one] for one in accepted):
        return f"must be of type {' or '.join(accepted)}"
    if isinstance(value, int | float) and not abs(value) < float("inf"):
        return "must be a finite number"
    if isinstance(value, int) and abs(value) >= 2**63:
        return "must be below 2**63"
    if name in CHOICES and value not in CHOICES[name]:
        return f"must be one of {', '.join(CHOICES[name])}{_WHY.get(name, '')}"
    if name in BOUNDS and not BOUNDS[name].holds(value):
        return f"must be {BOUNDS[name]}"
    return None
