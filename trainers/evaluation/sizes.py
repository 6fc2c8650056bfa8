"""How many rows of policies are measured at once; knows no policy and no data.

On a CPU what stays in its caches is fastest, so that sizes are constants. On a GPU a step takes as long for one row as
for thousands: as many go in one as fit into its free memory, by the bytes that each takes, counted here.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch

from trainers.models.memory import usable_bytes

_LOGITS_ON_CPU: Final = 2**25
_LOGITS_ON_GPU: Final = 2**27
"""Logits of a batch when completions are scored. Measuring KL takes about six times 4 bytes each: 0.8 and 3.2 GB."""
_LOGITS_IN_CACHE: Final = 2**17
"""Logits whose numbers a CPU computes at a time: 512 KiB and a few times as much for what they are made of."""
_LOGITS_OF_A_KERNEL: Final = 2**25
"""The same on a GPU: enough to keep it busy, and with all that is made of them 1.3 GB."""
_FREE_ON_CPU: Final = 2**20
_FREE_ON_GPU: Final = 2**24
"""Numbers in one activation, tokens x hidden size, up to which a batch may have more rows than the batch size asked
for: 4 and 64 MiB. On a CPU larger ones leave its caches and take longer a token. On a GPU: where its free memory is not
known."""
_SAMPLED_FREE: Final = 4
"""As many times more rows while sampling, where a step reads one token of each."""
_WAITING: Final = 0.25
"""Of usable memory, for logits that wait until the reference reads what was written."""
_TOKENS_OF_A_PASS: Final = 2**17
"""Tokens that are read in one pass at most: more take no less time each."""
_PER_LOGIT: Final = 12
"""Bytes that a logit takes while it is made a log-probability, beside its own."""


@dataclass(frozen=True)
class Shape:
    """What of a model decides on bytes: widths of its states, and `itemsize`, the bytes of a number in them."""

    hidden: int
    widest: int
    layers: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    itemsize: int

    @classmethod
    def of(cls, model: torch.nn.Module) -> Shape:
        """Of a transformers model. Under autocast some states are in half precision, and none is wider than this."""
        config, embedding = _text_config(model), model.get_input_embeddings().weight  # type: ignore[operator]
        hidden, heads = int(config.hidden_size), int(config.num_attention_heads)
        return cls(
            hidden=hidden,
            widest=int(getattr(config, "intermediate_size", None) or getattr(config, "n_inner", None) or 4 * hidden),
            layers=int(config.num_hidden_layers),
            heads=heads,
            kv_heads=int(getattr(config, "num_key_value_heads", None) or heads),
            head_size=int(getattr(config, "head_dim", None) or hidden // heads),
            vocabulary=int(config.vocab_size),
            itemsize=embedding.element_size(),
        )

    @property
    def cached(self) -> int:
        """Bytes of keys and values of a token in all layers."""
        return 2 * self.layers * self.kv_heads * self.head_size * self.itemsize

    @property
    def activation(self) -> int:
        """Bytes that a token takes while a layer reads it, without gradients."""
        return self.itemsize * (6 * self.hidden + 4 * self.widest + 10 * self.heads * self.head_size)

    @property
    def logits(self) -> int:
        """Bytes of the logits of a token: as the model gives them, and in float32."""
        return self.vocabulary * (self.itemsize + max(4, self.itemsize))

    def sampled(self, tokens: int, readers: int) -> int:
        """Bytes of a row while it is written, at most so many tokens long. `readers`: models that keep what they have
        read of it. Heads may share keys and values, which kernels then read as if each had its own, a layer at a time.
        """
        repeated = 4 * self.heads * self.head_size * tokens * self.itemsize
        return readers * (tokens * self.cached + self.logits) + repeated + self.activation

    def scored(self, tokens: int, written: int) -> int:
        """Bytes of a row of so many tokens, the last ones `written`, while logits of these are read."""
        return tokens * (self.cached + self.activation) + written * (self.logits + _PER_LOGIT * self.vocabulary)


def sampled_rows(model: torch.nn.Module, device: torch.device, tokens: int, readers: int, batch_size: int) -> int:
    """How many rows of at most so many tokens are sampled together, of all policies."""
    usable = usable_bytes(device)
    if usable is not None:
        return int((1 - _WAITING) * usable) // Shape.of(model).sampled(tokens, readers)
    return max(batch_size, _SAMPLED_FREE * _small_activation(device) // (tokens * _hidden(model)))


def scored_rows(model: torch.nn.Module, device: torch.device, tokens: int, written: int, batch_size: int) -> int:
    """How many rows of at most so many tokens, the last ones `written`, are scored together, of all policies."""
    usable = usable_bytes(device)
    if usable is not None:
        return min(usable // Shape.of(model).scored(tokens, written), _TOKENS_OF_A_PASS // tokens)
    most = max(batch_size, _small_activation(device) // (tokens * _hidden(model)))
    return min(most, _most_logits(device) // (written * int(_text_config(model).vocab_size)))


def laid_pairs(model: torch.nn.Module, device: torch.device, longest: int) -> int:
    """How many pairs with rows of at most so many tokens are read together in the layout of a pack, of all policies."""
    usable = usable_bytes(device)
    if usable is not None:
        return min(usable // (2 * longest * Shape.of(model).activation), _TOKENS_OF_A_PASS // (2 * longest))
    return _small_activation(device) // (2 * _hidden(model) * longest)


def waiting_logits(model: torch.nn.Module, device: torch.device, readers: int) -> int:
    """Logits that may wait until the reference reads what was written, of all rows and steps."""
    usable = usable_bytes(device)
    if usable is None:
        return _most_logits(device)
    shape = Shape.of(model)
    return int(_WAITING * usable) // (4 + (readers - 1) * shape.logits // shape.vocabulary)


def logits_at_once(device: torch.device) -> int | None:
    """Logits whose numbers are computed at a time; None: all."""
    return {"cpu": _LOGITS_IN_CACHE, "cuda": _LOGITS_OF_A_KERNEL}.get(device.type)


def _small_activation(device: torch.device) -> int:
    """Numbers in one activation, tokens x hidden size, up to which a batch may grow."""
    return _FREE_ON_CPU if device.type == "cpu" else _FREE_ON_GPU


def _text_config(model: torch.nn.Module) -> Any:
    """The config of a transformers model, or of the part of it that reads text."""
    return model.config.get_text_config()  # type: ignore[operator, union-attr]


def _hidden(model: torch.nn.Module) -> int:
    return int(_text_config(model).hidden_size)


def _most_logits(device: torch.device) -> int:
    """Logits that may be held at once."""
    return _LOGITS_ON_CPU if device.type == "cpu" else _LOGITS_ON_GPU
