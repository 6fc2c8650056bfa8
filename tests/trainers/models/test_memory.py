"""Facts about memory that runs out: what failed is gone before it is tried again, in halves, and nothing else is."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import pytest
import torch

from trainers.models import memory
from trainers.models.memory import halved_on_oom, in_batches, usable_bytes


class Large:
    """Stands for the tensors of a pass."""


def out_of_memory() -> Exception:
    return torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


def test_what_a_failed_try_held_is_gone_before_the_next_one() -> None:
    """Without the garbage collector, which nobody calls between two tries."""
    held: list[weakref.ref[Large]] = []
    alive: list[int] = []

    def inner(large: Large, size: int) -> int:
        if size > 2:
            raise out_of_memory()
        return size

    def work(size: int) -> int:
        alive.append(sum(each() is not None for each in held))
        large = Large()
        held.append(weakref.ref(large))
        return inner(large, size)

    gc.disable()
    try:
        assert halved_on_oom(work, 9) == (2, 2)
    finally:
        gc.enable()
    assert alive == [0, 0, 0, 0]  # 9, 5, 3, 2


def test_memory_is_given_back_behind_the_handler(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the traceback would still hold what was to be given back."""
    import sys

    handled: list[Any] = []
    monkeypatch.setattr(memory, "give_back", lambda: handled.append(sys.exc_info()[0]))
    tries = iter([out_of_memory(), None])

    def work(size: int) -> None:
        error = next(tries)
        if error is not None:
            raise error

    halved_on_oom(work, 4)
    assert handled == [None]


def test_of_size_1_and_of_other_errors_nothing_is_tried_again() -> None:
    tried: list[int] = []

    def work(error: Exception, size: int) -> None:
        tried.append(size)
        raise error

    with pytest.raises(torch.OutOfMemoryError):
        halved_on_oom(lambda size: work(out_of_memory(), size), 3)
    assert tried == [3, 2, 1]
    tried.clear()
    with pytest.raises(ValueError, match="no numbers"):
        halved_on_oom(lambda size: work(ValueError("no numbers"), size), 3)
    assert tried == [3]


@pytest.mark.parametrize("fits", [1, 2, 3, 100])
def test_batches_are_all_done_and_stay_as_small_as_they_had_to_be(fits: int) -> None:
    done: list[int] = []
    sizes: list[int] = []

    def work(part: slice) -> None:
        if part.stop - part.start > fits:
            raise out_of_memory()
        sizes.append(part.stop - part.start)
        done.extend(range(part.start, part.stop))

    in_batches(work, 11, 4)
    assert done == list(range(11))
    assert max(sizes) <= min(4, fits)
    assert sizes == sorted(sizes, reverse=True)


def test_on_a_gpu_what_the_allocator_keeps_for_later_is_free(monkeypatch: pytest.MonkeyPatch) -> None:
    """After a pack has trained, most of the card is kept so."""
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (10 * 2**30, 80 * 2**30))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 60 * 2**30)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 5 * 2**30)
    assert usable_bytes(torch.device("cuda")) == int(0.8 * 65 * 2**30)
    assert usable_bytes(torch.device("cpu")) is None
