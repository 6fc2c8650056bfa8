"""Log-probabilities of tokens from hidden states, without keeping the logits; knows no loss and no layout."""

from __future__ import annotations

from typing import Any, Final

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel
from trl.kernels.chunked_logprob import ChunkedLogProbFunction

from trainers.multi_lora.flat import Unpackable

_LOGITS_AT_ONCE: Final = 2**23
_TILE_OF_THE_VOCABULARY: Final = 2**15
_SCALED = ("final_logit_softcapping", "logit_scale", "output_multiplier", "lm_head_multiplier", "logits_scaling")


def token_log_probs(model: PreTrainedModel, hidden: Tensor, target: Tensor) -> Tensor:
    """log pi(target | what the hidden state has seen) [M], in nats, for hidden states [M, d] and ids [M].

    On a GPU through TRL's fused head (`trl/kernels/chunked_logprob.py`), whose kernel keeps to the card's memory; on a
    CPU, where TRL folds every tile in several passes, through the function below. Both round as TRL does: logits in the
    model's precision, sums in float32 (float64 for a float64 model). Raises Unpackable for models that scale their
    logits.
    """
    config = model.config.get_text_config()
    scaled = [name for name in _SCALED if getattr(config, name, None) not in (None, 1.0)]
    if scaled:
        raise Unpackable(f"the model changes its logits ({', '.join(scaled)})")
    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear:
        raise Unpackable(f"the output layer is a {type(head).__name__}")
    if hidden.device.type == "cuda" and hidden.dtype is not torch.float64:
        outputs = ChunkedLogProbFunction.apply(
            hidden, head.weight, head.bias, target, 1.0, _TILE_OF_THE_VOCABULARY, None, 1.0, ()
        )
        return outputs[0]  # type: ignore[no-any-return]
    dtype = hidden.dtype
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
    return _LogProbs.apply(hidden, head.weight, head.bias, target, dtype)  # type: ignore


class _LogProbs(torch.autograd.Function):
    """Log-probabilities whose gradient to the hidden state is found on the way.

    It is g (W[target] - softmax W) with one number g a token, so the matrix product can be done while the chunk's
    probabilities are there: two products in all, as with kept logits, and the memory of one chunk.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, dtype: torch.dtype
    ) -> Tensor:
        wide = torch.float64 if hidden.dtype is torch.float64 else torch.float32
        found = torch.empty(len(hidden), dtype=wide, device=hidden.device)
        slopes = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        chunk = max(1, _LOGITS_AT_ONCE // weight.shape[0])
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), chunk):
                rows = slice(start, start + chunk)
                logits = functional.linear(hidden[rows].to(dtype), weight, bias).to(wide)
                ids = target[rows, None]
                log_z = logits.logsumexp(-1, keepdim=True)
                found[rows] = (logits.gather(-1, ids) - log_z)[:, 0]
                if slopes is not None:
                    residual = logits.sub_(log_z).exp_().neg_()
                    residual.scatter_add_(-1, ids, residual.new_ones(ids.shape))
                    slopes[rows] = (residual.to(dtype) @ weight).to(slopes.dtype)
        ctx.save_for_backward(slopes)
        return found

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (slopes,) = ctx.saved_tensors
        return slopes * gradient[:, None].to(slopes.dtype), None, None, None, None
