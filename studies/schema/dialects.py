"""The keys of other tools' config files, and what a study or its base says instead.

A table for each tool, as data: the keys of its own, not those that it shares with TRL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

OUT = "leave it out"
LOSSES = "name losses as the study's variants, such as variants: {sigmoid: {}, ipo: {}}"
_NO_CHAT_TEMPLATE = "leave it out: the chat template that lies with the model's tokenizer is used"
_LORA = "write use_peft: true for LoRA, with load_in_4bit: true for QLoRA; leave it out for full fine-tuning"
_ONE_DATASET = "write dataset_name: ORG/NAME; a study reads one dataset, so write a mix of several to one file"
_FLASH = "write attn_implementation: flash_attention_2"


class Dialect(NamedTuple):
    """A tool's keys, each with what to write: `=name` where another name has its meaning (`=data.rows` in the study
    file), perhaps with a note after it, else a remedy in words.
    """

    tool: str
    keys: Mapping[str, str]


def _keys(text: str, out: str = "", **more: str) -> dict[str, str]:
    """`old=new` pairs, keys to leave `out`, and keys with `more` to say."""
    same = dict(pair.split("=") for pair in text.split())
    return {**{old: f"={new}" for old, new in same.items()}, **dict.fromkeys(out.split(), OUT), **more}


BASES = (
    Dialect(
        "LLaMA-Factory",
        _keys(
            """lora_rank=lora_r pref_beta=beta dpo_label_smoothing=label_smoothing cutoff_len=max_length
            max_samples=data.rows additional_target=lora_modules_to_save
            enable_liger_kernel=use_liger_kernel ref_model_sync=sync_ref_model
            ref_model_alpha=ref_model_mixup_alpha""",
            out="""stage overwrite_cache plot_loss preprocessing_num_workers preprocessing_batch_size dataset_dir
            media_dir tokenized_path packing neat_packing image_max_pixels video_max_pixels print_param_status
            include_effective_tokens_per_second disable_shuffling ranking""",
            finetuning_type=_LORA,
            lora_target="write lora_target_modules: all-linear for all, else its list of modules",
            pref_loss=LOSSES,
            pref_ftx="write a variant with loss_type: [sigmoid, sft] and loss_weights: [1.0, <pref_ftx>]",
            dataset="=dataset_name if that is its Hub id; else write data: {path: FILE} in the study file",
            template=_NO_CHAT_TEMPLATE,
            val_size="write data: {eval_rows: <number of pairs>} in the study file",
            eval_dataset="write data: {eval_split: ...} in the study file",
            quantization_bit="write load_in_4bit: true or load_in_8bit: true",
            flash_attn="write attn_implementation: sdpa, flash_attention_2 or eager",
            pure_bf16="write dtype: bfloat16",
            adapter_name_or_path="a run trains one new adapter: merge the other into the model first",
            ref_model="the reference is the base model itself; leave it out",
            ref_model_adapters="the reference is the base model itself; leave it out",
        ),
    ),
    Dialect(
        "axolotl",
        _keys(
            """base_model=model_name_or_path micro_batch_size=per_device_train_batch_size sequence_len=max_length
            num_epochs=num_train_epochs optimizer=optim lr_scheduler=lr_scheduler_type rl_beta=beta
            dpo_label_smoothing=label_smoothing
            dpo_use_weighting=use_weighting peft_use_rslora=use_rslora peft_use_dora=use_dora
            revision_of_model=model_revision dataset_num_processes=dataset_num_proc
            dataset_processes=dataset_num_proc""",
            out="""model_type tokenizer_type tokenizer_config tokenizer_use_fast is_llama_derived_model
            is_mistral_derived_model is_qwen_derived_model strict train_on_inputs sample_packing
            eval_sample_packing pad_to_sequence_len dataset_prepared_path shuffle_merged_datasets
            skip_prepare_dataset wandb_project wandb_entity wandb_watch wandb_name wandb_run_id
            wandb_log_model wandb_mode mlflow_experiment_name mlflow_tracking_uri evals_per_epoch
            saves_per_epoch eval_table_size eval_max_new_tokens early_stopping_patience
            xformers_attention s2_attention special_tokens tokens added_tokens_yaml plugins
            adapter_config auto_resume_from_checkpoints lora_fan_in_fan_out lora_mlp_kernel
            lora_qkv_kernel lora_o_kernel gpu_memory_limit loss_watchdog_threshold
            loss_watchdog_patience logger eval_causal_lm_metrics""",
            rl=LOSSES,
            adapter=_LORA,
            lora_target_linear="write lora_target_modules: all-linear",
            lora_model_dir="a run trains one new adapter: merge the other into the model first",
            val_set_size="write data: {eval_rows: <number of pairs>} in the study file",
            test_datasets="write data: {eval_split: ...} in the study file",
            bf16="write bf16: true, or leave it out for what the device can",
            fp16="write fp16: true, or leave it out for what the device can",
            tf32="write tf32: true, or leave it out",
            flash_attention=_FLASH,
            sdp_attention="write attn_implementation: sdpa",
            eager_attention="write attn_implementation: eager",
            trl="write its keys flat, such as beta: 0.1",
            chat_template_jinja=_NO_CHAT_TEMPLATE,
            default_system_message=_NO_CHAT_TEMPLATE,
        ),
    ),
    Dialect(
        "open-instruct",
        _keys(
            """max_seq_length=max_length lora_rank=lora_r dpo_beta=beta dpo_label_smoothing=label_smoothing
            use_lora=use_peft clip_grad_norm=max_grad_norm""",
            out="""exp_name run_name_suffix preprocessing_num_workers use_slow_tokenizer add_bos tokenizer_revision
            with_tracking wandb_entity wandb_project_name checkpointing_steps keep_last_n_checkpoints
            low_cpu_mem_usage overwrite_cache concatenated_forward use_reference_model hf_entity hf_repo_id
            hf_repo_revision hf_repo_url hf_metadata_dataset try_launch_beaker_eval_jobs
            try_auto_save_to_beaker do_not_randomize_output_dir dataset_cache_mode dataset_local_cache_dir
            dataset_skip_cache dataset_transform_fn dataset_target_columns dataset_config_hash cache_dataset_only
            oe_eval_tasks oe_eval_max_length gs_bucket_path zero_stage fused_optimizer timeout push_to_hub_entity
            clean_checkpoints_at_end load_balancing_loss""",
            dataset_mixer_list=_ONE_DATASET,
            dataset_mixer_list_splits="write dataset_train_split: one name",
            mixer_list=_ONE_DATASET,
            mixer_list_splits="write dataset_train_split: one name",
            dpo_loss_type=LOSSES,
            dpo_use_paged_optimizer="write optim: paged_adamw_32bit",
            use_qlora=_LORA,
            use_flash_attn=_FLASH,
            use_8bit_optimizer="write optim: adamw_bnb_8bit",
            max_train_samples="write data: {rows: ...} in the study file",
            tokenizer_name="leave it out: the tokenizer that lies with the model is used",
            chat_template_name=_NO_CHAT_TEMPLATE,
        ),
    ),
    Dialect(
        "the alignment-handbook",
        _keys(
            "model_code_revision=model_revision",
            out="auto_insert_empty_system_msg benchmarks callbacks system_prompt wandb_log_unique_prompts",
            dataset_mixer=_ONE_DATASET,
            dataset_mixture=_ONE_DATASET,
            dataset_splits="write dataset_train_split and, to evaluate, dataset_test_split: one name each",
            dataset_configs="write dataset_config: one name",
            preprocessing_num_workers="write dataset_num_proc, or leave it out",
            text_column="leave it out: pairs have prompt, chosen and rejected",
        ),
    ),
)

SWEEPS = (
    Dialect(
        "W&B sweeps",
        _keys(
            "run_cap=budget.trials description=question",
            out="program command entity project controller settings job image_uri",
            name="write study: a short name",
            method="write sampler: tpe for bayes, else grid or random",
            metric="write objective: {metric: ..., direction: minimize or maximize}; what a run measures has names of "
            "its own here, such as ranking_gain",
            parameters="write what varies under space, what does not under base, and losses under variants",
            early_terminate="write mode: search with rungs: {at: [0.5]}",
        ),
    ),
    Dialect(
        "Optuna or Ray Tune",
        _keys(
            "n_trials=budget.trials num_samples=budget.trials study_name=study search_space=space param_space=space "
            "timeout=budget.wall_clock n_jobs=resources.workers direction=objective.direction",
            out="load_if_exists n_startup_trials n_warmup_steps gc_after_trial show_progress_bar",
            pruner="write mode: search with rungs: {at: [0.5]}",
            scheduler="write mode: search with rungs: {at: [0.5]}",
            directions="a study has one objective: write objective: {metric: ..., direction: ...}",
            storage="give it on the command line: --storage URL",
        ),
    ),
)


def spoken(tables: Sequence[Dialect], keys: Sequence[str]) -> Dialect | None:
    """The tool that has most of the keys, which must be two: one alone may be a slip."""
    most = max(tables, key=lambda table: sum(key in table.keys for key in keys))
    return most if sum(key in most.keys for key in keys) > 1 else None


def remedy(tables: Sequence[Dialect], tool: Dialect | None, key: str) -> str | None:
    """What to write for a key of `tool`, or else of any in `tables`."""
    return next((table.keys[key] for table in (*filter(None, [tool]), *tables) if key in table.keys), None)
