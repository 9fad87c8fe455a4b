"""What engines over PyTorch tensors share: tensors of a case, and measuring on CUDA devices."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch

from ..case import Array, Case
from . import Call, Engine

CAPTURED, REPLAYS = 10, 10  # calls of a graph; its results live in the same memory, one by one


class TorchEngine(Engine):
    """An engine whose arrays are PyTorch tensors; NHWC means channels_last memory."""

    devices = ("cpu", "cuda")

    def __init__(self, threads: int, device: str) -> None:
        super().__init__(threads, device)
        torch.set_num_threads(threads)
        if device == "cuda" and not torch.cuda.is_available():
            raise RuntimeError(f"torch {torch.__version__} finds no usable CUDA device")
        if device == "cuda":
            # A gradient runs on the stream of the forward call, and the default one has no graphs.
            torch.cuda.set_stream(torch.cuda.Stream())

    def tensor(self, array: Array, case: Case) -> Any:
        memory = torch.channels_last if case.layout == "NHWC" else torch.contiguous_format
        dtype = getattr(torch, case.dtype)
        tensor = torch.tensor(array).to(device=self.device, dtype=dtype, memory_format=memory)
        return tensor

    def rows(self, array: Array) -> Any:
        return torch.tensor(array, device=self.device)

    def arrays(self, result: Any) -> list[Array]:
        tensors = result if isinstance(result, (list, tuple)) else [result]
        return [tensor.detach().float().cpu().contiguous().numpy() for tensor in tensors]

    def versions(self) -> dict[str, str]:
        found = super().versions()
        if self.device == "cuda":
            found["CUDA"] = str(torch.version.cuda)
            found["GPU"] = torch.cuda.get_device_name()
            # A copy that stays in the cache: the other ceiling, beside that of the memory.
            found["GB/s of a copy in L2"] = f"{self._copy_bandwidth(2**22) / 1e9:.0f}"
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

    def time_in_graph(self, call: Call) -> float | None:
        """Of a graph of several calls, its replays; None of a call that cannot be captured."""
        if self.device == "cpu":
            return None
        call()
        torch.cuda.synchronize()
        graph: Any = torch.cuda.CUDAGraph()
        try:
            with torch.cuda.graph(graph, stream=torch.cuda.current_stream()):
                for _ in range(CAPTURED):
                    call()
        except RuntimeError:  # it waits for the device
            torch.cuda.synchronize()
            return None
        return min(self.time(graph.replay, REPLAYS)) / CAPTURED

    def first_call(self, call: Call) -> tuple[Any, int]:
        if self.device == "cpu":
            return super().first_call(call)
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        result = call()
        torch.cuda.synchronize()
        return result, torch.cuda.max_memory_allocated() - before

    def bandwidth(self) -> float:
        return self._copy_bandwidth(2**28)

    def _copy_bandwidth(self, elements: int) -> float:
        source = torch.ones(elements, dtype=torch.float32, device=self.device)
        target = torch.empty_like(source)
        best = min(self.time(lambda: target.copy_(source), 10))
        return float(2 * source.nbytes / best)


def pooler_of(module: Any, inputs: list[Any], boxes: Any, case: Case) -> Call:
    """A call of MultiScaleRoIAlign, torchvision's or one with its signature."""
    names = [str(level) for level in range(len(inputs))]
    pooler = module(names, case.output_size, case.sampling_ratio)
    maps = dict(zip(names, inputs, strict=True))
    lists = [boxes[boxes[:, 0] == image, 1:] for image in range(len(inputs[0]))]
    return partial(pooler, maps, lists, [tuple(case.image_size)] * len(lists))


def step_of(forward: Call, inputs: list[Any], grad: Any) -> Call:
    """What training does: pool, keep what the gradient needs, and take it."""
    return lambda: torch.autograd.grad(forward(), inputs, grad)
