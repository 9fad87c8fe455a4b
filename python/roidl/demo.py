"""`roidl demo`: pools a photograph with every front end, checks and times them, draws a figure.

The extra `demo` (scikit-image, matplotlib, tqdm) and the frameworks are imported when it runs,
after the cheap checks of the arguments. Steps that take seconds report their progress.
"""

from __future__ import annotations

import importlib
import importlib.util
import math
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

import roidl

from . import _demo_definition as definition
from ._command_line import CommandError, not_installed
from ._demo_scene import BINS, Scene, parse_boxes, set_scene

Array = npt.NDArray[Any]
Float32 = npt.NDArray[np.float32]

OUTPUT = "roidl-demo.png"
TOLERANCE = (
    1e-5  # of the largest value; sums of some hundred float32 samples have errors below 1e-6
)
REPEATS = 7
BAR = "{desc:<35}|{bar:20}| {n_fmt}/{total_fmt} {elapsed}"


# The front ends -----------------------------------------------------------------------------------


class FrontEnd(NamedTuple):
    """A library whose arrays the demo passes to roidl."""

    asarray: Callable[[Array], Any]
    to_numpy: Callable[[Any], Array] = np.asarray
    synchronize: Callable[[], object] = lambda: None


def _jax(jax: Any) -> FrontEnd:
    cpu = jax.devices("cpu")[0]
    return FrontEnd(lambda array: jax.device_put(array, cpu))


def _tensorflow(tensorflow: Any) -> FrontEnd:
    def asarray(array: Array) -> Any:
        with tensorflow.device("/CPU:0"):
            return tensorflow.convert_to_tensor(array)

    return FrontEnd(asarray)


FRONT_ENDS: dict[str, Callable[[Any], FrontEnd]] = {
    "numpy": lambda numpy: FrontEnd(numpy.asarray),
    "torch": lambda torch: FrontEnd(torch.from_numpy),
    "jax": _jax,
    "tensorflow": _tensorflow,
    "cupy": lambda cupy: FrontEnd(cupy.asarray, cupy.asnumpy, cupy.cuda.Device().synchronize),
}


def _choose_front_ends(asked: Sequence[str] | None) -> dict[str, str]:
    """Name and version of the front ends to run: the requested ones, or all usable ones."""
    info = roidl.build_info()
    installed = {name: info["frameworks"].get(name) for name in FRONT_ENDS}
    usable = {
        name: version
        for name, version in installed.items()
        if version is not None and (name != "cupy" or info["cuda"]["usable"])
    }
    for name in asked or ():
        if name not in FRONT_ENDS:
            raise CommandError(f"unknown framework {name!r}; there are {', '.join(FRONT_ENDS)}")
        if installed[name] is None:
            raise CommandError(not_installed(name))
        if name not in usable:
            raise CommandError(f"{name} needs CUDA, which this build of roidl cannot use here")
    return {name: version for name, version in usable.items() if name in (asked or FRONT_ENDS)}


def _load(name: str) -> FrontEnd:
    # TensorFlow prints many messages on stderr.
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
    try:
        return FRONT_ENDS[name](importlib.import_module(name))
    except ImportError as error:
        reason = str(error).partition("\n")[0]
        raise CommandError(
            f"{name} is installed but cannot be imported ({reason}); "
            f"leave it out by naming the others with --frameworks"
        ) from error


# The check ----------------------------------------------------------------------------------------


class Task(NamedTuple):
    """One map pooled at one size, and the results by definition."""

    where: str
    features: Float32  # [1, C, H, W]
    boxes: Float32
    bins: int
    scale: float
    grad: Float32  # the gradient to both operators' results
    expected: dict[str, Array]  # by operator


class Row(NamedTuple):
    """A line of the table."""

    name: str
    version: str
    device: str
    align_ms: float
    pool_ms: float
    difference: float  # the largest, relative to the largest value of its result
    where: str


def _tasks(scene: Scene) -> list[Task]:
    rng = np.random.default_rng(0)
    boxes = scene.boxes
    tasks = []
    for name, (features, scale) in scene.maps.items():
        for bins in BINS:
            shape = (len(boxes), len(features), bins, bins)
            grad = rng.uniform(-1, 1, shape).astype(np.float32)
            pooled, argmax = definition.roi_pool(features, boxes, bins, scale)
            expected: dict[str, Array] = {
                "roi_align": definition.roi_align(features, boxes, bins, scale),
                "roi_align_backward": definition.roi_align_backward(
                    grad, boxes, features.shape, scale
                )[None],
                "roi_pool": pooled,
                "roi_pool_backward": definition.roi_pool_backward(grad, argmax, features.shape)[
                    None
                ],
            }
            where = f"on the {name} at {bins} x {bins}"
            tasks.append(Task(where, features[None], boxes, bins, scale, grad, expected))
    return tasks


def _align(features: Any, boxes: Any, grad: Any, task: Task) -> tuple[Any, Any]:
    aligned = roidl.roi_align(features, boxes, task.bins, task.scale, -1, True)
    return aligned, roidl.roi_align_backward(grad, boxes, task.features.shape, task.scale, -1, True)


def _pool(features: Any, boxes: Any, grad: Any, task: Task) -> tuple[Any, Any]:
    pooled, argmax = roidl.roi_pool(features, boxes, task.bins, task.scale, return_argmax=True)
    return pooled, roidl.roi_pool_backward(grad, boxes, argmax, task.features.shape, task.scale)


def _median_ms(function: Callable[[], object], front_end: FrontEnd) -> float:
    times = []
    for _ in range(REPEATS):
        start = time.perf_counter()
        function()
        front_end.synchronize()
        times.append(time.perf_counter() - start)
    return 1e3 * statistics.median(times)


def _difference(found: Array, expected: Array) -> float:
    """The largest difference relative to the largest expected value; infinite if undefined."""
    if found.shape != expected.shape or found.dtype != np.float32:
        return math.inf
    largest = float(np.abs(expected).max(initial=0))
    difference = float(np.abs(found - expected).max(initial=0)) / (largest or 1.0)
    return difference if math.isfinite(difference) else math.inf


def _device(array: Any) -> str:
    kind, index = array.__dlpack_device__()
    return {1: "cpu", 2: f"cuda:{index}"}.get(int(kind), f"DLPack device {kind}")


def _measure(name: str, version: str, front_end: FrontEnd, tasks: Sequence[Task]) -> Row:
    """Run every task on one library's arrays."""
    milliseconds = {_align: 0.0, _pool: 0.0}
    differences = {}
    device = ""
    for task in tasks:
        features = front_end.asarray(task.features)
        boxes, grad = front_end.asarray(task.boxes), front_end.asarray(task.grad)
        device = _device(features)
        for both, op in ((_align, "roi_align"), (_pool, "roi_pool")):
            call = partial(both, features, boxes, grad, task)
            for suffix, result in zip(("", "_backward"), call(), strict=True):
                found = front_end.to_numpy(result)
                expected = task.expected[op + suffix]
                differences[f"{op}{suffix} {task.where}"] = _difference(found, expected)
            milliseconds[both] += _median_ms(call, front_end)
    where = max(differences, key=differences.__getitem__)
    times = (milliseconds[_align], milliseconds[_pool])
    return Row(name, version, device, *times, differences[where], where)


# The command --------------------------------------------------------------------------------------


@contextmanager
def _progress(total: int) -> Iterator[Callable[[str], None]]:
    """A function that reports the next step: a progress bar in a terminal, else one line each."""
    from tqdm import tqdm

    with tqdm(total=total, disable=None, leave=False, bar_format=BAR) as bar:

        def step(what: str) -> None:
            if bar.disable:
                print(f"{what} ...", file=sys.stderr, flush=True)
            bar.set_description_str(what)
            bar.update()

        yield step


_FOOTNOTE = (
    f"ms: forward and gradient on both maps at {' and '.join(f'{b} x {b}' for b in BINS)} bins, "
    f"median of {REPEATS}; difference: from a float64 definition,\n"
    f"relative to the largest value of the result, at most {TOLERANCE:g} is allowed"
)


def _table(rows: Sequence[Row]) -> str:
    lines = [("front end", "version", "device", "RoIAlign ms", "RoIPool ms", "largest difference")]
    for row in rows:
        times = (f"{row.align_ms:.2f}", f"{row.pool_ms:.2f}")
        verdict = "" if row.difference <= TOLERANCE else "  DISAGREES"
        lines.append((row.name, row.version, row.device, *times, f"{row.difference:.1e}{verdict}"))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.rjust(width) if 3 <= i <= 4 else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _check_disagreement(rows: Sequence[Row]) -> None:
    wrong = [
        f"{row.name} ({row.where}: {row.difference:.1e})"
        for row in rows
        if not row.difference <= TOLERANCE
    ]
    if wrong:
        raise CommandError(
            f"not within {TOLERANCE:g} of the float64 definition: {', '.join(wrong)}", status=1
        )


def _check_output(path: Path) -> None:
    if path.suffix.lower() != ".png":
        raise CommandError(
            f"cannot write {path}: the figure is a PNG, name a file that ends in .png"
        )
    if path.is_dir() or not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        reason = "it is a folder" if path.is_dir() else f"{path.parent} is not a writable folder"
        raise CommandError(f"cannot write {path}: {reason}")


def run(
    image: str | None = None,
    boxes: Sequence[str] = (),
    output: str = OUTPUT,
    frameworks: Sequence[str] | None = None,
) -> None:
    """Run the demo: read, pool, check, print, draw.

    Raises
    ------
    CommandError
        If a requested thing is not available, or a front end disagrees with the definition.
    """
    for module in ("skimage", "matplotlib", "tqdm"):
        if importlib.util.find_spec(module) is None:
            raise CommandError(not_installed(module))
    versions = _choose_front_ends(frameworks)
    regions = parse_boxes(boxes)
    _check_output(Path(output))

    with _progress(5 + 2 * len(versions) - bool(regions)) as step:
        scene = set_scene(image, regions, step)
        step("computing the float64 definition")
        tasks = _tasks(scene)
        rows = []
        for name, version in versions.items():
            step(f"importing {name}")
            front_end = _load(name)
            step(f"pooling with {name}")
            rows.append(_measure(name, version, front_end, tasks))
        step("drawing the figure")
        from ._demo_figure import draw

        figure = draw(scene)

    names = ", ".join(region.name for region in scene.regions)
    print(f"{image or 'astronaut'}, {scene.size[0]} x {scene.size[1]} pixels: {names}")
    for name, (features, scale) in scene.maps.items():
        print(f"{name}: {' x '.join(map(str, features.shape))}, spatial_scale {scale:g}")
    print()
    print(_table(rows))
    print(_FOOTNOTE)
    _check_disagreement(rows)
    try:
        figure.savefig(output)
    except OSError as error:
        raise CommandError(f"cannot write {output}: {error.strerror or error}") from None
    print(f"\nwrote {output}")
