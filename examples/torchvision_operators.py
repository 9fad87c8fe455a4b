"""torchvision's RoIAlign and RoIPool against roidl's: values, gradients, forward mode, overhead.

Run with torchvision installed: ``python examples/torchvision_operators.py``.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from roidl._command_line import Parser, one_line

PROG = "examples/torchvision_operators.py"

with one_line(PROG, __name__):
    import torch
    import torchvision.ops as theirs

    import roidl.torch as ours


def problem() -> tuple[torch.Tensor, torch.Tensor]:
    """Features and boxes [K, 5] in pixels of an image 16 times as large."""
    generator = torch.Generator().manual_seed(0)
    features = torch.rand(2, 8, 25, 30, generator=generator)
    corners = 300 * torch.rand(40, 4, generator=generator)
    corners[:, 2:] += corners[:, :2]
    return features, torch.cat([torch.arange(40.0)[:, None] % 2, corners], 1)


def compare(name: str, their: Callable[..., Any], our: Callable[..., Any]) -> None:
    """The same values and gradients, from both forms of boxes."""
    features, boxes = problem()
    listed = [boxes[boxes[:, 0] == n, 1:] for n in range(2)]
    for given in (boxes, listed):
        results, gradients = [], []
        for op in (their, our):
            x = features.clone().requires_grad_()
            results.append(op(x, given))
            (results[-1] ** 2).sum().backward()
            gradients.append(x.grad)
        torch.testing.assert_close(*results)
        torch.testing.assert_close(*gradients)
    tangent = torch.rand_like(features)
    along = [
        torch.func.jvp(lambda x, op=op: op(x, boxes), (features,), (tangent,))[1].abs().sum()
        for op in (their, our)
    ]
    print(f"{name}: equal; forward mode, summed: torchvision {along[0]:.1f}, roidl {along[1]:.1f}")


def fastest(*calls: Callable[[], Any]) -> list[float]:
    """Microseconds of each call: the minimum of many short runs in turns."""
    best = [float("inf")] * len(calls)
    for _ in range(500):
        for i, call in enumerate(calls):
            start = time.perf_counter()
            for _ in range(20):
                call()
            best[i] = min(best[i], (time.perf_counter() - start) / 20 * 1e6)
    return best


def overhead(name: str, their: Callable[..., Any], our: Callable[..., Any]) -> None:
    """Time one box on a map of 8 x 8, which is mostly overhead."""
    x, boxes = torch.rand(1, 1, 8, 8), torch.tensor([[0, 0, 0, 48, 48.0]])
    y, gradient = x.clone().requires_grad_(), torch.ones(1, 1, 1, 1)
    for what, steps in {
        "forward": [lambda op=op: op(x, boxes) for op in (their, our)],
        "forward + backward": [
            lambda op=op: op(y, boxes).backward(gradient) for op in (their, our)
        ],
    }.items():
        a, b = fastest(*steps)
        print(f"{name}, {what}: torchvision {a:.1f} us, roidl {b:.1f} us, ratio {b / a:.2f}")


def main() -> None:
    """Compare everything."""
    torch.set_num_threads(1)
    scale = 1 / 16
    for aligned in (False, True):
        arguments = (7, scale, 2, aligned)
        compare(
            f"roi_align, aligned={aligned}",
            lambda x, b, arguments=arguments: theirs.roi_align(x, b, *arguments),
            lambda x, b, arguments=arguments: ours.roi_align(x, b, *arguments),
        )
    compare(
        "roi_pool",
        lambda x, b: theirs.roi_pool(x, b, 7, scale),
        lambda x, b: ours.roi_pool(x, b, 7, scale),
    )
    for module_arguments in ((7, scale, 2), ((7, 5), scale, -1, True)):
        assert repr(theirs.RoIAlign(*module_arguments)) == repr(ours.RoIAlign(*module_arguments))
    assert repr(theirs.RoIPool(7, scale)) == repr(ours.RoIPool(7, scale))
    overhead(
        "roi_align",
        lambda x, b: theirs.roi_align(x, b, 1, scale, 2),
        lambda x, b: ours.roi_align(x, b, 1, scale, 2),
    )
    overhead(
        "roi_pool",
        lambda x, b: theirs.roi_pool(x, b, 1, scale),
        lambda x, b: ours.roi_pool(x, b, 1, scale),
    )


if __name__ == "__main__":
    with one_line(PROG):
        Parser(prog=PROG, description=(__doc__ or "").partition("\n")[0]).parse_args()
        main()
