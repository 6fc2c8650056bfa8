"""Makes the embedded models, taught on generated reviews, and their tokenizer; knows no gold and no pairs.

``python -m trainers.world.pretrain [--model embedded-gpt2] [--output DIR]`` reproduces a model that ships with the
package: a minute or two on one core.
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from torch import Tensor
from transformers import (
    GenerationConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
)

from studies.records import EMBEDDED, EMBEDDED_GPT2, EMBEDDED_MODELS
from trainers.world.grammar import AGES, END, MAX_WORDS, MOODS, TOPICS, prompt, vocabulary, write_review
from trainers.world.paths import model_path

PAD: Final = "<pad>"
UNKNOWN: Final = "<unknown>"
IGNORED: Final = -100
POSITIONS: Final = 64
"""Tokens in a row: 8 of a prompt and up to 32 of an answer, and some to spare."""


@dataclass(frozen=True)
class PretrainOptions:
    """Recipe of an embedded model: AdamW without decay, cosine to zero after a short warm-up. The same for all."""

    model: str = EMBEDDED
    steps: int = 1200
    batch: int = 64
    learning_rate: float = 4e-3
    warmup_steps: int = 20
    seed: int = 0


def make_tokenizer() -> PreTrainedTokenizerFast:
    """One token per word or stop, nothing added before or after; decoding joins words with single spaces."""
    words = (PAD, END, UNKNOWN, *vocabulary())
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(words)}, unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        clean_up_tokenization_spaces=False,
        model_max_length=POSITIONS,
        padding_side="left",
    )


def make_model(tokenizer: PreTrainedTokenizerFast, options: PretrainOptions) -> PreTrainedModel:
    """An untaught model of two layers and width 64 in float32; leaves the caller's random state as it was."""
    make = {EMBEDDED: _llama, EMBEDDED_GPT2: _gpt2}[options.model]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(options.seed)
        model = make(tokenizer)
    model.generation_config = GenerationConfig(
        do_sample=True,
        temperature=1.0,
        top_k=0,
        top_p=1.0,
        max_new_tokens=MAX_WORDS,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return model


def _llama(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """94,528 parameters: rotary positions, RMSNorm, SwiGLU, no biases, a head of its own."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=4,
            num_key_value_heads=4,
            max_position_embeddings=POSITIONS,
            tie_word_embeddings=False,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dtype="float32",
        )
    )


def _gpt2(tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """93,824 parameters: learned positions, LayerNorm, GELU, biases, the head tied to the embedding. The Llama has no
    dropout, so neither has this.
    """
    return GPT2LMHeadModel(
        GPT2Config(
            vocab_size=len(tokenizer),
            n_embd=64,
            n_inner=192,
            n_layer=2,
            n_head=4,
            n_positions=POSITIONS,
            resid_pdrop=0.0,
            embd_pdrop=0.0,
            attn_pdrop=0.0,
            bos_token_id=None,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
            dtype="float32",
        )
    )


def pretrain(options: PretrainOptions) -> tuple[PreTrainedModel, PreTrainedTokenizerFast]:
    """Teaches a fresh model to write reviews of all moods and topics; same options, same model."""
    tokenizer = make_tokenizer()
    model = make_model(tokenizer, options)
    rng = np.random.default_rng(options.seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=options.learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: _learning_rate_factor(step, options))
    model.train()
    started = time.perf_counter()
    for step in range(1, options.steps + 1):
        input_ids, labels = _batch(tokenizer, _texts(rng, options.batch))
        loss: Tensor = model(input_ids=input_ids, labels=labels).loss
        loss.backward()  # type: ignore[no-untyped-call]
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        optimizer.zero_grad()
        if step % 200 == 0 or step == options.steps:
            seconds = time.perf_counter() - started
            print(f"step {step}: {loss.item():.3f} nats per token, {seconds:.0f} s", flush=True)  # noqa: T201
    return model.eval(), tokenizer


def _learning_rate_factor(step: int, options: PretrainOptions) -> float:
    """Share of the peak learning rate at a step: linear warm-up, then half a cosine down to zero."""
    if step < options.warmup_steps:
        return (step + 1) / options.warmup_steps
    done = (step - options.warmup_steps) / max(1, options.steps - options.warmup_steps)
    return 0.5 * (1.0 + math.cos(math.pi * done))


def _texts(rng: np.random.Generator, n: int) -> list[tuple[str, str]]:
    """n pairs of a prompt and a review of its mood and topic."""
    texts = []
    for _ in range(n):
        mood, age, topic = (words[int(rng.integers(len(words)))] for words in (MOODS, AGES, TOPICS))
        texts.append((prompt(mood, age, topic), write_review(rng, mood, topic)))  # type: ignore[arg-type]
    return texts


def _batch(tokenizer: PreTrainedTokenizerFast, texts: Sequence[tuple[str, str]]) -> tuple[Tensor, Tensor]:
    """Token ids and labels [batch, length], padded on the right; only the review and its end are learnt."""
    rows = [tokenizer(f"{asked} {review} {END}")["input_ids"] for asked, review in texts]
    prompt_lengths = [len(asked.split()) for asked, _ in texts]
    longest = max(len(row) for row in rows)
    pad = tokenizer.pad_token_id
    input_ids = torch.tensor([row + [pad] * (longest - len(row)) for row in rows])
    labels = torch.tensor(
        [
            [IGNORED] * skip + row[skip:] + [IGNORED] * (longest - len(row))
            for row, skip in zip(rows, prompt_lengths, strict=True)
        ]
    )
    return input_ids, labels


def main() -> None:
    """Command line: trains and writes the folder."""
    parser = argparse.ArgumentParser(description="Train an embedded model and write it as a Hugging Face folder.")
    parser.add_argument("--model", default=EMBEDDED, choices=EMBEDDED_MODELS, help=f"which (default {EMBEDDED})")
    parser.add_argument("--output", type=Path, help="folder to write (default: the package's own)")
    asked = parser.parse_args()
    output: Path = asked.output or model_path(asked.model)
    model, tokenizer = pretrain(PretrainOptions(model=asked.model))
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)
    print(f"{sum(p.numel() for p in model.parameters())} parameters written to {output}")  # noqa: T201


if __name__ == "__main__":
    main()
