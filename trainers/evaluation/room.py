"""Keys and values with room for the tokens to come; knows no model and no policy.

Transformers' growing cache copies all that it holds at every step. With room, a step writes its own tokens alone.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import DynamicLayer


class RoomyLayer(DynamicLayer):  # type: ignore[misc]
    """A layer's keys and values [rows, heads, T, d], as views into tensors with room for more tokens."""

    def __init__(self, layer: DynamicLayer, tokens: int) -> None:
        """What `layer` holds, with room for so many tokens in all."""
        super().__init__()
        self.dtype, self.device, self.is_initialized = layer.dtype, layer.device, True
        self.keys, self.values = layer.keys, layer.values
        self._tokens = tokens
        self._room: tuple[Tensor, Tensor] | None = None

    def update(self, key_states: Tensor, value_states: Tensor, *_: Any, **__: Any) -> tuple[Tensor, Tensor]:
        """See `DynamicLayer.update`."""
        held, end = self.keys.shape[2], self.keys.shape[2] + key_states.shape[2]
        if self._room is None or end > self._room[0].shape[2]:
            self._room = self._with_room(self.keys, end), self._with_room(self.values, end)
        for room, new in zip(self._room, (key_states, value_states), strict=True):
            room[:, :, held:end] = new
        self.keys, self.values = (room[:, :, :end] for room in self._room)
        return self.keys, self.values

    def reorder_cache(self, beam_idx: Tensor) -> None:
        """See `DynamicLayer.reorder_cache`."""
        self._room = None
        super().reorder_cache(beam_idx)

    def _with_room(self, held: Tensor, end: int) -> Tensor:
        rows, heads, tokens, size = held.shape
        room = held.new_empty(rows, heads, max(self._tokens, end), size)
        room[:, :, :tokens] = held
        return room


def give_room(cache: Any, tokens: int) -> None:
    """Give the growing layers of a cache, and no others, room for so many tokens in all."""
    for place, layer in enumerate(getattr(cache, "layers", ())):
        if type(layer) is DynamicLayer and isinstance(layer.keys, torch.Tensor) and layer.keys.ndim == 4:
            cache.layers[place] = RoomyLayer(layer, tokens)
