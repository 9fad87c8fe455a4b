"""Calls the handlers for CUDA with a recording library, which ROIDL_CUDA_LIBRARY names."""

from __future__ import annotations

import json
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import roidl
from cuda_stand_ins import BYTES_OF_A_BOX
from roidl._params import POOL_MODES, RoiAlignParams, RoiPoolParams
from roidl.jax import roi_align
from roidl.jax._site import Site
from xla_runtime import EXECUTE, INITIALIZE, Runtime

ORDINAL = 3
features = np.zeros((1, 2, 5, 5), np.float32)
boxes = np.array([[0, 1, 1, 4, 4], [9, 1, 1, 4, np.nan]], np.float32)  # not read
pooled = np.zeros((2, 2, 3, 3), np.float32)
argmax = np.zeros(pooled.shape, np.int32)
enough = np.zeros(2 * BYTES_OF_A_BOX, np.uint8)
little = np.zeros(enough.size - 1, np.uint8)

ALIGN = RoiAlignParams(3, 3, 1.0, 2, 2, False, 0, 0)
POOL = RoiPoolParams(3, 3, 1.0, 0, 0)
CALLS: dict[str, tuple[RoiAlignParams | RoiPoolParams, list[Any], list[Any]]] = {
    "roi_align": (ALIGN, [features, boxes], [pooled]),
    "roi_align_backward": (ALIGN, [pooled, boxes], [features]),
    "roi_pool": (POOL, [features, boxes], [pooled]),
    "roi_pool with argmax": (POOL, [features, boxes], [pooled, argmax]),
    "roi_pool_backward": (POOL, [pooled, argmax, boxes], [features]),
    "roi_pool_jvp": (POOL._replace(mode=POOL_MODES["avg"]), [features, boxes], [pooled]),
}
NAMES = {
    id(features): "features",
    id(boxes): "boxes",
    id(pooled): "pooled",
    id(argmax): "argmax",
    id(enough): "enough",
    id(little): "little",
}

arrays = (features, boxes, pooled, argmax, enough, little)
print(json.dumps({NAMES[id(array)]: array.ctypes.data for array in arrays}), flush=True)
roidl.set_check_boxes(True)  # of no effect on programs of XLA
for name, (params, operands, results) in CALLS.items():
    for workspace in (enough, little):
        op = name.partition(" ")[0]
        shapes = (features.shape,)
        site = Site(op, params, shapes, indexed=False, grouped=False, results=1)
        # A runtime that reports its device, and an older one that does not.
        runtime = Runtime(ordinal=ORDINAL if workspace is enough else None)
        print(json.dumps({"name": name, "lent": NAMES[id(workspace)]}), flush=True)
        for stage in (INITIALIZE, EXECUTE):
            answer = runtime.call(
                f"roidl_cuda_{op}", stage, None, operands, [*results, workspace], site.attributes()
            )
            assert answer is None, runtime.errors

text = (
    jax.jit(lambda x, boxes: roi_align(x, boxes, 3, sampling_ratio=2))
    .trace(jnp.asarray(features), jnp.asarray(boxes))
    .lower(lowering_platforms=("cuda",))
    .as_text("hlo")
)
print(json.dumps(f"u8[{enough.size}]" in text))
