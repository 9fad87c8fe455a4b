"""Run by test_jax_sharding.py on eight devices: prints collectives and shardings of each case."""

import importlib
import json
import re
import sys
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
from jax._src import sharding_impls
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import oracle
from roidl.jax import multiscale_roi_align, roi_align, roi_pool

P = PartitionSpec
MESH = Mesh(np.array(jax.devices()).reshape(4, 2), ("c", "r"))
RNG = np.random.default_rng(81)
FEATURES = RNG.standard_normal((2, 8, 9, 11)).astype(np.float32)
CORNERS = np.concatenate([RNG.uniform(0, 4, (16, 2)), RNG.uniform(5, 9, (16, 2))], axis=1)
ROWS = np.column_stack([np.repeat([0, 1], 8), CORNERS]).astype(np.float32)
ODD = ROWS[:15]
GROUPED = ROWS[:, 1:].reshape(2, 8, 4)
WEIGHTS = RNG.standard_normal((16, 8, 3, 3)).astype(np.float32)
RULE: dict[str, Any] = {"sampling_ratio": 2}

KINDS = ("all-gather", "all-reduce", "all-to-all", "collective-permute", "reduce-scatter")


def align(input: Any, boxes: Any, mode: str = "avg", layout: str = "NCHW") -> Any:
    return roi_align(input, boxes, 3, mode=mode, layout=layout, **RULE)


def weighed(input: Any, boxes: Any, mode: str = "avg") -> Any:
    return weigh(align(input, boxes, mode))


def weigh(pooled: Any) -> Any:
    spec = P("r", "c") if pooled.ndim == 4 else P("r", None, "c")
    weights = WEIGHTS.reshape(pooled.shape)
    return (pooled * jax.lax.with_sharding_constraint(weights, NamedSharding(MESH, spec))).sum()


def put(array: Any, *spec: Any) -> Any:
    return jax.device_put(array, NamedSharding(MESH, P(*spec)))


def forward(mode: str = "avg") -> Any:
    return oracle.roi_align(FEATURES, ROWS, (3, 3), mode=mode, **RULE)


def backward(mode: str = "avg") -> Any:
    return oracle.roi_align_backward(WEIGHTS, FEATURES, ROWS, mode=mode, **RULE)


def backward_boxes(mode: str = "avg") -> Any:
    return oracle.roi_align_backward_boxes(WEIGHTS, FEATURES, ROWS, mode=mode, **RULE)


X, B = put(FEATURES, None, "c"), put(ROWS, "r")
CASES: dict[str, tuple[Callable[..., Any], tuple[Any, ...], Any]] = {
    "forward": (align, (X, B), forward()),
    "forward NHWC": (
        lambda x, b: align(x, b, layout="NHWC"),
        (put(FEATURES.transpose(0, 2, 3, 1), None, None, None, "c"), B),
        forward().transpose(0, 2, 3, 1),
    ),
    "forward max": (lambda x, b: align(x, b, "max"), (X, B), forward("max")),
    "forward indices": (
        lambda x, b, i: roi_align(x, b, 3, batch_indices=i, **RULE),
        (X, put(ROWS[:, 1:], "r"), put(ROWS[:, 0].astype(np.int32), "r")),
        forward(),
    ),
    "to input": (jax.grad(weighed), (X, B), backward()),
    "to input max": (jax.grad(lambda x, b: weighed(x, b, "max")), (X, B), backward("max")),
    "to boxes": (jax.grad(weighed, argnums=1), (X, B), backward_boxes()),
    "pool": (
        lambda x, b: roi_pool(x, b, 3),
        (X, B),
        oracle.roi_pool(FEATURES, ROWS, (3, 3))[0],
    ),
    "pool to input": (
        jax.grad(lambda x, b: roi_pool(x, b, 3).sum()),
        (X, B),
        oracle.roi_pool_backward(
            np.ones_like(WEIGHTS),
            ROWS,
            oracle.roi_pool(FEATURES, ROWS, (3, 3))[1],
            FEATURES.shape,
        ),
    ),
    "images": (
        align,
        (put(FEATURES, "r", "c"), put(GROUPED, "r")),
        forward().reshape(2, 8, 8, 3, 3),
    ),
    "images to input": (
        jax.grad(weighed),
        (put(FEATURES, "r", "c"), put(GROUPED, "r")),
        backward(),
    ),
    # Fifteen regions are not divisible by two: they are not sharded, and nothing is padded.
    "odd": (
        lambda x, b: align(x, jax.lax.with_sharding_constraint(b, NamedSharding(MESH, P()))),
        (X, put(ODD)),
        forward()[:15],
    ),
    # The regions may belong to any image, so the images are gathered.
    "images of all regions": (align, (put(FEATURES, "r"), put(ROWS)), forward()),
}


def in_shard_map(function: Any, outs: Any) -> Any:
    shard_map: Any = getattr(jax, "shard_map", None)
    if shard_map is None:  # before JAX 0.7
        shard_map = importlib.import_module("jax.experimental.shard_map").shard_map
    return shard_map(function, mesh=MESH, in_specs=(P(None, "c"), P("r")), out_specs=outs)


CASES["shard_map"] = (in_shard_map(align, P("r", "c")), (X, B), forward())
CASES["shard_map to both"] = (
    jax.grad(lambda x, b: (in_shard_map(align, P("r", "c"))(x, b) * WEIGHTS).sum(), argnums=(0, 1)),
    (X, B),
    (backward(), backward_boxes()),
)

# Two maps; the regions of an image belong to them in turns.
HALF = RNG.standard_normal((2, 8, 5, 6)).astype(np.float32)
LEVELS = np.arange(16) % 2
PADDED = np.where(np.arange(8)[:, None] < 5, GROUPED, np.nan).astype(np.float32)
KEPT = np.arange(16) % 8 < 5


def align_two(maps: Any, boxes: Any, levels: Any, counts: Any = None) -> Any:
    return multiscale_roi_align(maps, boxes, 3, (1, 0.5), levels=levels, counts=counts, **RULE)


def of_two(function: Callable[..., Any], kept: Any = True) -> list[Any]:
    """The oracle's results of each map for the rows that belong to it."""
    rows = [np.flatnonzero(kept & (level == LEVELS)) for level in range(2)]
    return [
        function(features, rows, scale)
        for features, rows, scale in zip((FEATURES, HALF), rows, (1, 0.5), strict=True)
    ]


def at_their_rows(parts: list[Any], kept: Any = True) -> Any:
    whole = np.zeros((16, *parts[0].shape[1:]), np.float32)
    for level, part in enumerate(parts):
        whole[np.flatnonzero(kept & (level == LEVELS))] = part
    return whole


def forward_two(features: Any, rows: Any, scale: float) -> Any:
    return oracle.roi_align(features, ROWS[rows], (3, 3), scale, **RULE)


def backward_two(features: Any, rows: Any, scale: float) -> Any:
    return oracle.roi_align_backward(WEIGHTS[rows], features, ROWS[rows], scale, **RULE)


def backward_boxes_two(features: Any, rows: Any, scale: float) -> Any:
    return oracle.roi_align_backward_boxes(WEIGHTS[rows], features, ROWS[rows], scale, **RULE)


def loss_two(maps: Any, boxes: Any, levels: Any, counts: Any = None) -> Any:
    return weigh(align_two(maps, boxes, levels, counts))


X2, L2 = [X, put(HALF, None, "c")], put(LEVELS, "r")
BY_IMAGE = [put(FEATURES, "r", "c"), put(HALF, "r", "c")]
NUMBERS, FIVE = LEVELS.reshape(2, 8), np.array([5, 5])
FORWARD_PADDED = at_their_rows(of_two(forward_two, KEPT), KEPT).reshape(2, 8, 8, 3, 3)
CASES["maps"] = (align_two, (X2, B, L2), at_their_rows(of_two(forward_two)))
CASES["maps to both"] = (
    jax.grad(loss_two, argnums=(0, 1)),
    (X2, B, L2),
    (of_two(backward_two), at_their_rows(of_two(backward_boxes_two))),
)
CASES["maps of images, padded"] = (
    align_two,
    (BY_IMAGE, put(PADDED, "r"), put(NUMBERS, "r"), put(FIVE, "r")),
    FORWARD_PADDED,
)
CASES["maps of images, padded, to maps"] = (
    jax.grad(loss_two),
    (BY_IMAGE, put(PADDED, "r"), put(NUMBERS, "r"), put(FIVE, "r")),
    of_two(backward_two, KEPT),
)
# Rows are counted from the first, so they are gathered.
CASES["maps, padded, rows divided"] = (
    lambda *arrays: jax.lax.with_sharding_constraint(
        align_two(*arrays), NamedSharding(MESH, P(None, None, "c"))
    ),
    (X2, put(PADDED, None, "r"), put(NUMBERS, None, "r"), put(FIVE)),
    FORWARD_PADDED,
)

if hasattr(jax.sharding, "reshard"):  # types that say how an array is divided, from JAX 0.7 on
    EXPLICIT = jax.make_mesh((4, 2), ("c", "r"), axis_types=(jax.sharding.AxisType.Explicit,) * 2)

    def typed(array: Any, *spec: Any) -> Any:
        return jax.device_put(array, NamedSharding(EXPLICIT, P(*spec)))

    def explicit_loss(input: Any, boxes: Any) -> Any:
        pooled = align(input, boxes)
        assert jax.typeof(pooled).sharding.spec == P("r", "c", None, None)
        return (pooled * typed(WEIGHTS, "r", "c")).sum()

    with jax.set_mesh(EXPLICIT):  # of arrays that are not sharded by it
        for got, right in (
            (align(FEATURES, ROWS), forward()),
            (jax.jit(jax.grad(lambda x: (align(x, ROWS) * WEIGHTS).sum()))(FEATURES), backward()),
        ):
            np.testing.assert_allclose(got, right, rtol=0, atol=1e-4)

    XT, BT = typed(FEATURES, None, "c"), typed(ROWS, "r")
    CASES["explicit"] = (align, (XT, BT), forward())
    CASES["explicit to both"] = (
        jax.grad(explicit_loss, argnums=(0, 1)),
        (XT, BT),
        (backward(), backward_boxes()),
    )
    CASES["explicit images"] = (
        align,
        (typed(FEATURES, "r", "c"), typed(GROUPED, "r")),
        forward().reshape(2, 8, 8, 3, 3),
    )
    CASES["explicit maps to both"] = (
        jax.grad(lambda *given: (align_two(*given) * typed(WEIGHTS, "r", "c")).sum(), (0, 1)),
        ([XT, typed(HALF, None, "c")], BT, typed(LEVELS, "r")),
        (of_two(backward_two), at_their_rows(of_two(backward_boxes_two))),
    )
    CASES["explicit images of all regions"] = (
        jax.grad(lambda x, b: (align(x, b) * WEIGHTS).sum()),
        (typed(FEATURES, "r"), typed(ROWS)),
        backward(),
    )

jax.config.update("jax_use_shardy_partitioner", sys.argv[1] == "shardy")
if sys.argv[1] == "gspmd":  # devices that form no mesh: the array is replicated
    channels = NamedSharding(MESH, P(None, ("c", "r")))._to_xla_hlo_sharding(4)
    nameless = sharding_impls.GSPMDSharding(tuple(MESH.devices.flat), channels)
    got = jax.jit(align)(jax.device_put(FEATURES, nameless), ROWS)
    np.testing.assert_allclose(got, forward(), rtol=0, atol=1e-4)
for name, (function, arguments, expected) in CASES.items():
    compiled = jax.jit(function).lower(*arguments).compile()
    text, result = str(compiled.as_text()), compiled(*arguments)
    results, wanted = jax.tree.leaves(result), jax.tree.leaves(expected)
    for got, right in zip(results, wanted, strict=True):
        np.testing.assert_allclose(got, right, rtol=0, atol=1e-4, err_msg=name)
    # If XLA has combined collectives, each array counts.
    moved = {kind: re.findall(rf"= (\S+|\(.*?\)) {kind}(?:-start)?\(", text) for kind in KINDS}
    counts = {kind: len(re.findall(r"\w\[", " ".join(types))) for kind, types in moved.items()}
    counts = {kind: count for kind, count in counts.items() if count}
    shards = [part.addressable_shards[0].data.shape for part in results]
    print(json.dumps({"case": name, "counts": counts, "shards": shards}))
