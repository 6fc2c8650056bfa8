"""A GPU that computes nothing: tensors on it have shapes, types and a device, and no numbers.

What runs on it shows whether two tensors meet on different devices, and where the host would wait for the device. No
gradients: autograd asks for the driver, and ends the process where there is none.
"""

from __future__ import annotations

import copy
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils._triton import has_triton_package
from transformers import PreTrainedModel

CUDA = torch.device("cuda")
aten = torch.ops.aten
NEEDS_NO_DRIVER = pytest.mark.skipif(
    has_triton_package(), reason="TRL's head is a Triton kernel where Triton is installed, and Triton asks for a driver"
)
_ROOT = Path(__file__).parents[2] / "trainers"
_WAITING = ("_local_scalar_dense", "nonzero", "is_nonzero", "equal", "masked_select", "unique", "_unique2")


class Waits(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """`places`: the lines of the project at which the host would wait for the GPU, and with which operator."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.places: list[str] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
        on_gpu = any(tensor.device.type == "cuda" for tensor in given)
        if name == "_local_scalar_dense" and isinstance(args[0], FakeTensor):
            self.places += [f"{name} at {_line()}"] * on_gpu
            return True if args[0].dtype == torch.bool else 1.0 if args[0].is_floating_point() else 2**20
        found = func(*args, **(kwargs or {}))
        copies = name in ("_to_copy", "copy_") and not (kwargs or {}).get("non_blocking") and not _asks(name, args)
        to = {leaf.device.type for leaf in tree_leaves(found) if isinstance(leaf, Tensor)}
        if (on_gpu and name in _WAITING) or (copies and ("cuda" in to or on_gpu) and len(to | _types(given)) > 1):
            self.places.append(f"{name} at {_line()}")
        return found


def _asks(name: str, args: Any) -> bool:
    """Whether a copy in place is asked not to block."""
    return name == "copy_" and len(args) > 2 and bool(args[2])


def _types(given: list[Tensor]) -> set[str]:
    return {tensor.device.type for tensor in given if tensor.ndim > 0 or tensor.device.type == "cuda"}


def _line() -> str:
    inside = [f for f in traceback.extract_stack() if Path(f.filename).is_relative_to(_ROOT)]
    return f"{Path(inside[-1].filename).name}:{inside[-1].lineno}" if inside else "elsewhere"


_VALUES = {Tensor.__int__: int, Tensor.__bool__: bool, Tensor.__float__: float, Tensor.item: lambda value: value}


# These ask for the driver too.
_AS_OPERATORS = {
    Tensor.copy_: lambda tensor: tensor,
    Tensor.contiguous: aten.clone.default,
    Tensor.__invert__: aten.bitwise_not.default,
}


class _Indexing(TorchFunctionMode):
    """Reads and writes parts of tensors by operators: torch's own `[...]` asks for a driver, which no CPU build has."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        is_read, is_written = func is Tensor.__getitem__, func is Tensor.__setitem__
        if (is_read or is_written) and args[0].device.type == "cuda":
            part, index = _part(args[0], args[1])
            if is_read:
                return aten.index.Tensor(part, index) if index else part
            value = args[2] if isinstance(args[2], Tensor) else torch.full((), args[2], device=CUDA, dtype=part.dtype)
            value = value.to(part.dtype)
            return aten.index_put_.default(part, index, value) if index else None
        if func is Tensor.numpy and isinstance(args[0], FakeTensor):
            return np.zeros(
                args[0].shape, {torch.bool: np.bool_, torch.float64: np.float64}.get(args[0].dtype, np.int64)
            )
        if func in _VALUES and args[0].device.type == "cuda":
            return _VALUES[func](aten._local_scalar_dense.default(args[0]))
        if func in _AS_OPERATORS and args[0].device.type == "cuda":
            return _AS_OPERATORS[func](args[0])
        return func(*args, **(kwargs or {}))


def _part(whole: Tensor, key: Any) -> tuple[Tensor, list[Tensor | None]]:
    """What ints, slices and new axes of the key leave, and the tensors by which that is indexed."""
    keys = list(key) if isinstance(key, tuple) else [key]
    if Ellipsis in [k for k in keys if not isinstance(k, Tensor)]:
        place = next(i for i, k in enumerate(keys) if k is Ellipsis)
        taken = sum(k is not None and k is not Ellipsis for k in keys)
        keys[place : place + 1] = [slice(None)] * (whole.ndim - taken)
    index: list[Tensor | None] = []
    for one in keys:
        dim = len(index)
        if one is None:
            whole, index = aten.unsqueeze.default(whole, dim), [*index, None]
        elif isinstance(one, slice):
            end = one.stop if one.stop is not None else 2**62
            whole, index = aten.slice.Tensor(whole, dim, one.start or 0, end, one.step or 1), [*index, None]
        elif isinstance(one, int):
            whole = aten.select.int(whole, dim, one)
        else:
            index.append(one if isinstance(one, Tensor) else torch.tensor(one, device=whole.device))
    return whole, index if any(isinstance(each, Tensor) for each in index) else []


@contextmanager
def fake_gpu(patch: pytest.MonkeyPatch) -> Iterator[FakeTensorMode]:
    """Inside, tensors that are made or brought to CUDA are there, as far as shapes go."""
    mode = FakeTensorMode(allow_non_fake_inputs=True)

    def pinned(array: np.ndarray[Any, Any]) -> Tensor:
        return mode.from_tensor(torch.from_numpy(array))

    with patch.context() as inside, mode, _Indexing(), torch.no_grad():
        inside.setattr("trainers.multi_lora.transfer._pinned", pinned)
        inside.setattr(FakeTensor, "tolist", lambda tensor: np.zeros(tensor.shape).tolist())
        yield mode


def on_fake_gpu(mode: FakeTensorMode, model: PreTrainedModel) -> PreTrainedModel:
    """The model as it would be on the GPU."""
    there = {id(p): torch.nn.Parameter(on_gpu(mode, p), requires_grad=False) for p in model.parameters()}
    twin: PreTrainedModel = copy.deepcopy(model, there | {id(b): on_gpu(mode, b) for b in model.buffers()})
    return twin.eval()


def on_gpu(mode: FakeTensorMode, tensor: Tensor) -> Tensor:
    """A tensor of this shape and type on the GPU."""
    with mode:
        return torch.empty(tensor.shape, dtype=tensor.dtype, device=CUDA)
