"""Rotary embeddings whose angles depend on the longest row of a batch: who has them, and rows that keep their own.

With `longrope` and `dynamic` (and whatever a model brings that does the same) a row's numbers depend on its
neighbours, with `dynamic` also on what was read before. They are found by what they do: the angles of the same
positions beside a far one. Knows no data, no loss and no adapter.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from trl import DPOConfig

COUPLED_ROWS: Final = (
    "its rotary embeddings turn by the longest row of a batch, so that a row's numbers depend on the others"
)
"""Why a run of such a model trains alone."""
_FAR: Final = 2**24
"""Longer than any row, and a whole number in float32 still."""
_FEW: Final = 4
_PLAIN: Final = "default"
_LONGEST: Final = "max_seq_len_cached"
# What a module says that takes other arguments than `_angles` gives it: it is none of this kind.
_OTHER = (TypeError, ValueError, RuntimeError, LookupError, AttributeError)


def couples_rows(model: nn.Module, length: int | None) -> bool:
    """Whether a row's numbers depend on its batch where rows have up to so many tokens (None: any number)."""
    return bool(coupling(model, length))


def longest_row(args: DPOConfig) -> int | None:
    """Tokens of the longest row that TRL's collator makes, padding included; None: it has no limit."""
    if args.max_length is None:
        return None
    multiple = args.pad_to_multiple_of or 1
    return int(-(-args.max_length // multiple) * multiple)


def coupling(model: nn.Module, length: int | None = None) -> list[nn.Module]:
    """The modules whose angles a row of so many tokens changes for all rows beside it."""
    far = _FAR if length is None else length
    return [module for module in model.modules() if _is_rotary(module) and _couples(module, far)]


def begin_anew(model: nn.Module) -> None:
    """Forget how long the rows were that were read before, as in a model that was just loaded."""
    for module in coupling(model):
        _reset(module)


Memory = list[dict[str, int]]
"""Of each module that depends on what was read before, the longest row by its name for it."""


def memory(model: nn.Module) -> Memory:
    """What the model remembers of the rows that it has read."""
    return [
        {name: int(value) for name, value in vars(module).items() if name.endswith(_LONGEST)}
        for module in coupling(model)
    ]


def remember(model: nn.Module, memory: Memory) -> None:
    """Bring a model to what `memory` told, by reading a row as long."""
    for module, longest in zip(coupling(model), memory, strict=False):
        _reset(module)
        for name, length in longest.items():
            layer_type = name.removesuffix(_LONGEST).rstrip("_")
            more = {"layer_type": layer_type} if layer_type else {}
            last = torch.full((1, 1), length - 1, device=_device(module))
            if length > int(module.original_max_seq_len):  # type: ignore[arg-type]
                type(module).forward(module, torch.zeros(1, 1, 1, device=last.device), last, **more)


@contextmanager
def own_lengths(modules: Sequence[nn.Module], lengths: Sequence[int]) -> Iterator[None]:
    """Inside, each row has the angles that it has alone, at `lengths` [rows] tokens; what the modules remember of
    other rows is neither used nor changed.
    """
    before = [module.__dict__.get("forward") for module in modules]
    for module in modules:
        module.forward = partial(_row_by_row, module, tuple(lengths))
    try:
        yield
    finally:
        for module, forward in zip(modules, before, strict=True):
            del module.forward
            if forward is not None:
                module.forward = forward


def _is_rotary(module: nn.Module) -> bool:
    if getattr(module, "rope_type", None) == _PLAIN or not any("inv_freq" in name for name in module._buffers):
        return False
    return "position_ids" in inspect.signature(type(module).forward).parameters


def _couples(module: nn.Module, length: int) -> bool:
    kinds = getattr(module, "rope_type", None)
    layers = (
        [{"layer_type": name} for name, kind in kinds.items() if kind != _PLAIN] if isinstance(kinds, dict) else [{}]
    )
    for more in layers:
        positions = torch.arange(_FEW, device=_device(module))[None]
        x = torch.zeros(1, _FEW, 1, device=positions.device)
        try:
            alone, beside = (_angles(module, n, x, positions, more) for n in (_FEW, max(length, _FEW)))
        except _OTHER:
            continue
        if any(not torch.equal(a, b) for a, b in zip(alone, beside, strict=True)):
            return True
    return False


def _device(module: nn.Module) -> torch.device:
    return next(buffer.device for name, buffer in module._buffers.items() if "inv_freq" in name and buffer is not None)


def _row_by_row(
    module: nn.Module, lengths: Sequence[int], x: Tensor, position_ids: Tensor, *args: Any, **more: Any
) -> Any:
    """What the module gives, row by row. Rows of one length go together."""
    rows = len(lengths)
    if position_ids.ndim != 2 or position_ids.shape[0] not in (1, rows):
        return type(module).forward(module, x, position_ids, *args, **more)
    if args:
        more = {"layer_type": args[0], **more}
    positions = position_ids.expand(rows, -1)
    found: list[Any] = [None] * rows
    for length in set(lengths):
        here = [i for i, own in enumerate(lengths) if own == length]
        at = torch.tensor(here, device=positions.device)
        for place, parts in zip(here, zip(*_angles(module, length, x, positions[at], more), strict=True), strict=True):
            found[place] = parts
    whole = tuple(torch.stack(part) for part in zip(*found, strict=True))
    return whole if len(whole) > 1 else whole[0]


def _angles(module: nn.Module, length: int, x: Tensor, positions: Tensor, more: dict[str, Any]) -> tuple[Tensor, ...]:
    """The angles at `positions` [rows, T] of rows that all have `length` tokens. The module stays as it is."""
    fresh = copy.copy(module)
    fresh.__dict__["_buffers"] = {name: None if b is None else b.clone() for name, b in module._buffers.items()}
    _reset(fresh)
    last = positions.new_full((len(positions), 1), length - 1)
    found = type(module).forward(fresh, x, torch.cat([positions, last], dim=1), **more)
    return tuple(part[:, :-1] for part in (found if isinstance(found, tuple) else (found,)))


def _reset(module: Any) -> None:
    for name in [name for name in module._buffers if name.endswith("inv_freq") and "original" not in name]:
        original = getattr(module, name.removesuffix("inv_freq") + "original_inv_freq", None)
        if original is not None:
            module._buffers[name] = original.to(module._buffers[name].device).clone()
    for name in [name for name in vars(module) if name.endswith(_LONGEST)]:
        setattr(module, name, module.original_max_seq_len)
