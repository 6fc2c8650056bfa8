"""What an exception says of a run: the machine's is tried again, what the run asks for is refused in its own words."""

from __future__ import annotations

import pickle
import weakref
from typing import Any

import pytest
from safetensors import SafetensorError

from studies.records import Cause
from trainers.run_folder.failures import MEMORY, breaks_the_process, cause_of, let_go, told


class OutOfMemoryError(RuntimeError):
    """As torch.OutOfMemoryError, which is known by its name."""


class AcceleratorError(RuntimeError):
    """As torch's."""


class RepositoryNotFoundError(OSError):
    """As huggingface_hub's."""


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (4x32 and 16x4)"),
        RuntimeError("Expected all tensors to be on the same device, but found at least two devices, cuda:0 and cpu!"),
        RuntimeError("PytorchStreamReader failed reading zip archive: failed finding central directory"),
        IndexError("index out of range in self"),
        AttributeError("'MambaCausalLMOutput' object has no attribute 'past_key_values'"),
        KeyError("position_ids"),
        ImportError("Loading a GPTQ quantized model requires gptqmodel"),
        SafetensorError("Error while deserializing header: header too large"),
        pickle.UnpicklingError("invalid load key"),
        EOFError("Ran out of input"),
        AssertionError(),
        RepositoryNotFoundError("404"),
    ],
    ids=repr,
)
def test_what_another_try_would_meet_again_is_refused(error: Exception) -> None:
    assert cause_of(error) is Cause.REFUSED


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        ConnectionError("reset by peer"),
        TimeoutError(),
        RuntimeError("CUDA error: device-side assert triggered"),
        RuntimeError("NCCL communicator was aborted"),
        RuntimeError("[enforce fail at inline_container.cc:664] . unexpected pos 64 vs 0"),
        AcceleratorError("uncorrectable ECC error"),
        SystemExit("no device"),
    ],
    ids=repr,
)
def test_what_devices_disks_and_networks_do_is_the_machines(error: BaseException) -> None:
    assert cause_of(error) is Cause.INFRASTRUCTURE


def test_a_network_behind_an_error_of_another_kind_is_the_machines() -> None:
    error = ValueError("couldn't instantiate the tokenizer")
    error.__cause__ = ConnectionError("no route to host")
    assert cause_of(error) is Cause.INFRASTRUCTURE


def test_memory_is_told_apart_from_both() -> None:
    assert cause_of(OutOfMemoryError("CUDA out of memory")) is Cause.OUT_OF_GPU_MEMORY
    assert cause_of(MemoryError()) is Cause.OUT_OF_HOST_MEMORY


def test_a_message_names_the_exception_whose_words_alone_say_nothing() -> None:
    assert told(KeyError("x")) == "KeyError: 'x'"
    assert told(ValueError("beta must be above 0")) == "beta must be above 0"


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("CUDA error: CUBLAS_STATUS_NOT_INITIALIZED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("cuDNN error: CUDNN_STATUS_INTERNAL_ERROR_DEVICE_ALLOCATION_FAILED"),
        RuntimeError("CUDA error: HIPBLAS_STATUS_ALLOC_FAILED when calling `hipblasCreate(handle)`"),
        RuntimeError("cusolver error: CUSOLVER_STATUS_ALLOC_FAILED, when calling `cusolverDnCreate(handle)`"),
        RuntimeError("NCCL error in: Utils.cpp:77, unhandled cuda error\nLast error:\nCuda failure 'out of memory'"),
        RuntimeError("Triton Error [CUDA]: out of memory"),
        RuntimeError("HIP error: out of memory"),
        AcceleratorError("CUDA error: out of memory"),
        AcceleratorError("CUDA driver error: out of memory"),
    ],
    ids=repr,
)
def test_memory_that_a_library_of_the_gpu_did_not_get_is_memory(error: Exception) -> None:
    assert cause_of(error) is Cause.OUT_OF_GPU_MEMORY
    assert not breaks_the_process(error)


@pytest.mark.parametrize(
    ("error", "breaks"),
    [
        (AcceleratorError("CUDA error: an illegal memory access was encountered"), True),
        (AcceleratorError("uncorrectable ECC error"), True),
        (RuntimeError("CUDA error: device-side assert triggered"), True),
        (RuntimeError("CUDA error: unspecified launch failure"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasGemmEx`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"), True),
        (RuntimeError("HIP error: an illegal memory access was encountered"), True),
        (OSError(28, "No space left on device"), False),
        (RuntimeError("NCCL communicator was aborted"), False),
        (RuntimeError("Expected all tensors to be on the same device, cuda:0 and cpu!"), False),
        (ValueError("CUDA error"), False),
    ],
    ids=repr,
)
def test_an_error_of_the_device_that_later_calls_meet_too_is_known(error: Exception, breaks: bool) -> None:
    assert breaks_the_process(error) is breaks
    behind = RuntimeError("it cannot be measured")
    behind.__cause__ = error
    assert breaks_the_process(behind) is breaks


class _Graph:
    """Stands for what a pass has computed."""


def test_an_exception_that_is_kept_holds_nothing_of_the_pass_that_it_ended() -> None:
    held: list[weakref.ref[Any]] = []

    def passes() -> None:
        graph = _Graph()
        held.append(weakref.ref(graph))
        try:
            raise OutOfMemoryError("CUDA out of memory")
        except OutOfMemoryError as error:
            raise RuntimeError("in a layer") from error

    found: list[object] = []
    try:
        passes()
    except RuntimeError as error:
        found.append(held[0]() is None)
        let_go(error)  # in the handler itself
        found += [held[0]() is None, cause_of(error) in MEMORY]
    assert found == [False, True, True]
