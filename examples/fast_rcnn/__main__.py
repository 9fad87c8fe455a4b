"""The command line: trains, evaluates, compares; writes weights and pictures into a folder."""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import roidl
from roidl._command_line import CommandError, Parser, count, make_folder, one_line

PROG = "python -m examples.fast_rcnn"

with one_line(PROG, __name__):
    import numpy as np
    from matplotlib.figure import Figure

    from . import network, training, walkthrough
    from .network import Detector, Settings
    from .pictures import draw_detections, draw_losses
    from .regions import prepare, propose
    from .scenes import make_scene

COMPARED_STEPS = 50
OUTPUT = Path("fast_rcnn")
WALKED = 1  # the held-out scene whose largest digit the walkthrough follows


def _parser() -> argparse.ArgumentParser:
    defaults = Settings()
    parser = Parser(
        prog=PROG,
        description="Train a Fast R-CNN to find handwritten digits on photographs.",
    )

    def add(name: str, about: str, to: Any = parser, **settings: Any) -> None:
        default = settings.get("default")
        shown = "" if default is None else f" (default: {default})"
        to.add_argument(name, help=about + shown, **settings)

    add("--framework", "the framework", choices=training.FRAMEWORKS, default="torch")
    add("--pool", "RoIAlign or RoIPool", choices=network.POOLS, default=defaults.pool)
    add("--steps", "training steps", type=count(), metavar="N", default=defaults.steps)
    add("--scenes", "scenes to evaluate", type=count(), metavar="N", default=training.HELD_OUT)
    add("--dtype", "dtype", choices=("float32", "float64"), default=defaults.dtype)
    add("--device", "device", choices=("cpu", "cuda"), default=defaults.device)
    add("--output", "folder for the files", type=Path, metavar="FOLDER", default=OUTPUT)
    instead = parser.add_mutually_exclusive_group()
    about = "do not train, evaluate a checkpoint of any framework"
    add("--evaluate", about, instead, type=Path, metavar="NPZ")
    about = f"take {COMPARED_STEPS} steps in each framework, print the differences"
    add("--compare", about, instead, action="store_true")
    return parser


def _write(figure: Figure, path: Path) -> None:
    figure.savefig(path)
    print(f"wrote {path}")


def _report(detector: Detector, settings: Settings, count: int, title: str, folder: Path) -> None:
    """Evaluate, and draw the detections and the walkthrough of a box."""
    evaluation = training.evaluate(detector, settings.dtype, count)
    print(f"{title}: {evaluation}")
    _write(draw_detections(evaluation, f"{title}: {evaluation}"), folder / "detections.png")
    scene = make_scene("test", WALKED)
    largest = np.prod(scene.boxes[:, 2:] - scene.boxes[:, :2], axis=1).argmax()
    boxes = propose(np.random.default_rng(0), scene.boxes[[largest]])[:3]
    features = detector.features(prepare(scene.image[None]).astype(settings.dtype))[0]
    _write(walkthrough.draw_cells(scene, features, boxes[0]), folder / "cells.png")
    _write(walkthrough.draw_pooled(features, boxes[0]), folder / "pooled.png")
    _write(walkthrough.draw_gradients(boxes), folder / "gradients.png")


def _compare(settings: Settings, folder: Path) -> None:
    paths = {}
    for dtype in ("float64", "float32"):
        chosen = settings._replace(dtype=dtype)
        paths[dtype] = {
            name: training.walk(name, chosen, COMPARED_STEPS) for name in training.FRAMEWORKS
        }
        apart = training.difference(list(paths[dtype].values()))
        print(
            f"{', '.join(training.FRAMEWORKS)} in {dtype}: the first gradients differ by "
            f"{apart.gradients:.1e}, the losses of {COMPARED_STEPS} steps by {apart.losses:.1e}"
        )
    _write(draw_losses(paths), folder / "losses.png")


def _load(path: Path) -> tuple[network.Weights, str]:
    try:
        return network.load(path)
    except OSError as error:
        raise CommandError(f"--evaluate: cannot read {path}: {error.strerror or error}") from None
    except ValueError as error:
        raise CommandError(f"--evaluate: {error}") from None


def _make_detector(framework: str, settings: Settings, weights: network.Weights) -> Detector:
    try:
        return training.make_detector(framework, settings, weights)
    except training.NoDeviceError as error:
        raise CommandError(f"--device {settings.device}: {error}") from None


def _do(options: argparse.Namespace) -> None:
    if options.device == "cuda" and not roidl.build_info()["cuda"]["usable"]:
        raise CommandError("--device cuda: roidl cannot use CUDA here, see `roidl info`")
    folder: Path = options.output
    settings = Settings(options.pool, options.dtype, options.device, steps=options.steps)
    weights, pool = _load(options.evaluate) if options.evaluate else (None, settings.pool)
    make_folder(folder)
    if options.compare:
        _compare(settings, folder)
        return
    settings = settings._replace(pool=pool)
    weights = weights or network.first_weights()
    detector = _make_detector(options.framework, settings, weights)
    title = f"{options.framework}, {network.POOLS[settings.pool]}"
    if not options.evaluate:
        start = time.perf_counter(), time.process_time()
        losses = training.train(detector, settings.steps, settings.dtype, title)
        took, busy = time.perf_counter() - start[0], time.process_time() - start[1]
        print(f"{title}: {len(losses)} steps in {took:.0f} s ({busy:.0f} s of CPU)")
        network.save(folder / "checkpoint.npz", detector.weights(), settings.pool)
        print(f"wrote {folder / 'checkpoint.npz'}")
    _report(detector, settings, options.scenes, title, folder)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line."""
    with one_line(PROG):
        _do(_parser().parse_args(arguments))


if __name__ == "__main__":
    main()
