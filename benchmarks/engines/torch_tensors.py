"""The base of engines with PyTorch tensors: conversion, and measuring on CUDA devices."""

from __future__ import annotations

import ctypes
import time
from collections.abc import Sequence
from functools import partial
from typing import Any, ClassVar

import torch

from ..case import Array, Case
from . import Call, Engine

CAPTURED = 10  # calls in a graph; each result reuses the memory of the one before
FEWEST_REPLAYS, MOST_REPLAYS = 3, 1000
REPLAY_SECONDS = 0.03  # long enough for the clocks of an idle device to rise
KERNEL_NODE = 0  # CU_GRAPH_NODE_TYPE_KERNEL
USED_MEM_HIGH = 8  # CU_MEMPOOL_ATTR_USED_MEM_HIGH


class TorchEngine(Engine):
    """An engine whose arrays are PyTorch tensors; NHWC means channels_last memory."""

    devices = ("cpu", "cuda")
    cuda_dtypes: ClassVar[Sequence[str]]  # instead of `dtypes`

    def __init__(self, threads: int, device: str) -> None:
        super().__init__(threads, device)
        torch.set_num_threads(threads)
        if device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError(f"torch {torch.__version__} finds no usable CUDA device")
        if device == "cuda":
            # A gradient runs on its forward call's stream; graphs need a non-default one.
            torch.cuda.set_stream(torch.cuda.Stream())

    def offers(self, operation: str, dtype: str) -> bool:
        dtypes = self.dtypes if self.device == "cpu" else self.cuda_dtypes
        return operation in self.operations and dtype in dtypes

    def tensor(self, array: Array, case: Case) -> Any:
        memory = torch.channels_last if case.layout == "NHWC" else torch.contiguous_format
        dtype = getattr(torch, case.dtype)
        tensor = torch.tensor(array).to(device=self.device, dtype=dtype, memory_format=memory)
        return tensor

    def rows(self, array: Array) -> Any:
        return torch.tensor(array, device=self.device)

    def arrays(self, result: Any) -> list[Array]:
        tensors = result if isinstance(result, (list, tuple)) else [result]
        return [tensor.detach().float().contiguous().cpu().numpy() for tensor in tensors]

    def versions(self) -> dict[str, str]:
        found = super().versions()
        if self.device == "cuda":
            found["CUDA"] = str(torch.version.cuda)
            found["GPU"] = torch.cuda.get_device_name()
        return found

    def time(self, call: Call, count: int) -> list[float]:
        if self.device == "cpu":
            return super().time(call, count)
        times = []
        for _ in range(count):
            event: Any = torch.cuda.Event
            start, end = event(enable_timing=True), event(enable_timing=True)
            torch.cuda.synchronize()
            start.record()
            result = call()
            end.record()
            end.synchronize()
            del result
            times.append(start.elapsed_time(end) / 1e3)
        return times

    def in_graph(self, call: Call) -> dict[str, Any]:
        if self.device == "cpu" or _waits(call):
            return {}
        graph: Any = torch.cuda.CUDAGraph(keep_graph=True)
        with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
            for _ in range(CAPTURED):
                call()
        kernels = _kernels(graph) / CAPTURED
        graph.instantiate()
        seconds = min(self.time(graph.replay, FEWEST_REPLAYS))
        replays = min(max(int(REPLAY_SECONDS / seconds), FEWEST_REPLAYS), MOST_REPLAYS)
        return {"graph": min(self.time(graph.replay, replays)) / CAPTURED, "kernels": kernels}

    def first_call(self, call: Call) -> tuple[Any, float, int]:
        if self.device == "cpu":
            return super().first_call(call)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        _most_scratch()
        torch.cuda.synchronize()
        start = time.perf_counter()
        result = call()
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
        return result, seconds, torch.cuda.max_memory_allocated() - before + _most_scratch()

    def bandwidth(self, elements: int) -> float:
        source = torch.ones(elements, dtype=torch.float32, device=self.device)
        target = torch.empty_like(source)
        # In a graph, because a copy within the cache takes less time than its call from Python.
        seconds = self.in_graph(lambda: target.copy_(source))["graph"]
        return float(2 * source.nbytes / seconds)


def _waits(call: Call) -> bool:
    """Whether the call waits for the device. An attempt to capture such a call corrupts PyTorch's
    allocator (its pull request 180395), so that later captures fail."""
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        if "synchronizing" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode("default")
    return False


def _driver() -> ctypes.CDLL:
    return ctypes.CDLL("libcuda.so.1")


def _most_scratch() -> int:
    """Peak bytes of cudaMallocAsync since the last query; PyTorch's allocator has its own count."""
    driver, device, pool = _driver(), ctypes.c_int(), ctypes.c_void_p()
    most, none = ctypes.c_uint64(), ctypes.c_uint64(0)
    driver.cuDeviceGet(ctypes.byref(device), torch.cuda.current_device())
    driver.cuDeviceGetDefaultMemPool(ctypes.byref(pool), device)
    driver.cuMemPoolGetAttribute(pool, USED_MEM_HIGH, ctypes.byref(most))
    driver.cuMemPoolSetAttribute(pool, USED_MEM_HIGH, ctypes.byref(none))
    return most.value


def _kernels(graph: Any) -> int:
    """The number of kernel nodes of a captured graph, from the driver."""
    driver = _driver()
    handle, count = ctypes.c_void_p(graph.raw_cuda_graph()), ctypes.c_size_t()
    kind, kernels = ctypes.c_int(), 0
    driver.cuGraphGetNodes(handle, None, ctypes.byref(count))
    nodes = (ctypes.c_void_p * count.value)()
    driver.cuGraphGetNodes(handle, nodes, ctypes.byref(count))
    for node in nodes:
        driver.cuGraphNodeGetType(ctypes.c_void_p(node), ctypes.byref(kind))
        kernels += kind.value == KERNEL_NODE
    return kernels


def pooler_of(module: Any, inputs: list[Any], boxes: Any, case: Case) -> Call:
    """A call of MultiScaleRoIAlign, torchvision's or one with its signature."""
    names = [str(level) for level in range(len(inputs))]
    pooler = module(names, case.output_size, case.sampling_ratio)
    maps = dict(zip(names, inputs, strict=True))
    lists = [boxes[boxes[:, 0] == image, 1:] for image in range(len(inputs[0]))]
    return partial(pooler, maps, lists, [tuple(case.image_size)] * len(lists))


def step_of(forward: Call, inputs: list[Any], grad: Any) -> Call:
    """A training step: pool, then compute the gradient."""
    return lambda: torch.autograd.grad(forward(), inputs, grad)
