"""A program that prints the growth of peak memory, in MB, by calls on many tall adaptive boxes.

Its arguments are operator, mode and layout. Arguments and results are allocated before.
"""

from __future__ import annotations

import resource
import sys

import numpy as np

import roidl
from operators import call
from trials import from_nchw

SHAPE = (1, 16, 400, 200)
ROIS = 14_000
SIZE = (2, 1)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main(op: str, mode: str, layout: str) -> None:
    roidl.set_num_threads(1)
    rng = np.random.default_rng(3)
    # Nearly as tall as the map, so that each has hundreds of taps, and narrow, so that calls do not
    # take long. A few are as large as the map.
    x, y = rng.uniform(0, SHAPE[3] - 4, ROIS), rng.uniform(0, 60, ROIS)
    boxes = np.stack([0 * x, x, y, x + rng.uniform(1, 4, ROIS), y + SHAPE[2] - 60], 1)
    boxes[:3] = [0, 0, 0, SHAPE[3], SHAPE[2]]
    boxes = boxes.astype(np.float32)
    input = from_nchw(rng.standard_normal(SHAPE, np.float32), layout)
    gradient = from_nchw(np.ones((ROIS, SHAPE[1], *SIZE), np.float32), layout)
    outs = {"pooled": np.zeros_like(gradient), "grad_input": np.ones_like(input)}
    few = slice(3, 5)
    few_outs = outs | {"pooled": outs["pooled"][few]}
    call(op, mode, input, boxes[few], gradient[few], layout=layout, **few_outs)
    before = peak_mb()
    call(op, mode, input, boxes, gradient, layout=layout, **outs)
    print(peak_mb() - before)


if __name__ == "__main__":
    main(*sys.argv[1:])
