"""The example `fast_rcnn`: its parts on hand-made cases, and a few steps in every framework."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
MISSING = [
    module
    for module in ("matplotlib", "skimage", "sklearn", "tqdm")
    if importlib.util.find_spec(module) is None
]
if MISSING:
    pytest.skip(f"the extra examples is missing: {MISSING}", allow_module_level=True)
sys.path.insert(0, str(ROOT))  # examples are no part of the package

from examples.fast_rcnn import network, regions, scenes, training, walkthrough  # noqa: E402
from examples.fast_rcnn.__main__ import main  # noqa: E402
from examples.fast_rcnn.evaluation import (  # noqa: E402
    Detections,
    average_precision,
    mean_average_precision,
)
from examples.fast_rcnn.suppression import suppress  # noqa: E402

EXACT = network.Settings(dtype="float64")
STEPS = 3


def array(*rows: Any) -> Any:
    return np.array(rows, float)


def scene(*truths: tuple[int, Any]) -> scenes.Scene:
    """A scene without a picture: labels and boxes."""
    boxes = np.array([box for _, box in truths], float).reshape(-1, 4)
    labels = np.array([label for label, _ in truths], int)
    return scenes.Scene(np.zeros((scenes.SIDE, scenes.SIDE)), boxes, labels)


# Scenes -------------------------------------------------------------------------------------------


def test_scenes_come_without_a_download() -> None:
    code = (
        "import sys; sys.modules['pooch'] = None\n"
        "from examples.fast_rcnn.scenes import PHOTOGRAPHS, _photographs\n"
        "print(sum(len(_photographs(split)) for split in PHOTOGRAPHS))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) == sum(map(len, scenes.PHOTOGRAPHS.values()))


@pytest.mark.parametrize("split", ["train", "test"])
def test_scenes_are_reproducible(split: scenes.Split) -> None:
    for number in range(20):
        first, again = scenes.make_scene(split, number), scenes.make_scene(split, number)
        assert all(map(np.array_equal, first, again))
        assert first.image.shape == (scenes.SIDE, scenes.SIDE)
        assert first.image.min() >= 0
        assert first.image.max() <= 1
        sizes = first.boxes[:, 2:] - first.boxes[:, :2]
        assert first.boxes.min() >= 0
        assert first.boxes.max() <= scenes.SIDE
        assert (sizes.max(axis=1) >= scenes.SMALLEST).all()
        assert (sizes.max(axis=1) <= scenes.LARGEST).all()
        assert set(first.labels) <= set(range(1, scenes.CLASSES + 1))
    assert not np.array_equal(first.image, scenes.make_scene(split, 0).image)


def test_training_sees_nothing_that_is_held_out() -> None:
    train, test = (scenes._digits(split) for split in ("train", "test"))
    assert {ink.tobytes() for ink, _ in train}.isdisjoint(ink.tobytes() for ink, _ in test)
    names = {name for split in scenes.PHOTOGRAPHS.values() for name in split}
    assert len(names) == sum(map(len, scenes.PHOTOGRAPHS.values()))


# Regions ------------------------------------------------------------------------------------------


def test_overlap_by_hand() -> None:
    boxes, others = (
        array((0, 0, 4, 4)),
        array((0, 0, 4, 4), (2, 0, 6, 4), (4, 4, 8, 8), (1, 1, 3, 3)),
    )
    assert regions.iou(boxes, others).tolist() == [[1, 8 / 24, 0, 4 / 16]]


def test_targets_by_hand() -> None:
    truth = scene((3, (10, 10, 30, 30)), (7, (50, 50, 90, 90)))
    boxes = array(
        (10, 10, 30, 30), (12, 10, 32, 30), (55, 50, 85, 90), (10, 10, 30, 18), (0, 0, 5, 5)
    )
    overlap, labels, corrections = regions.assign(boxes, truth)
    assert overlap == pytest.approx([1, 18 / 22, 0.75, 0.4, 0])
    assert labels.tolist() == [3, 3, 7, 0, 0]
    unscaled = corrections / regions.CORRECTION_SCALE
    # (dx / w, dy / h, log dw, log dh): two pixels of twenty to the left; 30 wide made 40.
    assert unscaled[1] == pytest.approx([-0.1, 0, 0, 0])
    assert unscaled[2] == pytest.approx([0, 0, np.log(4 / 3), 0])
    assert not corrections[[0, 3, 4]].any()
    assert regions.decode(boxes[:3], corrections[:3]) == pytest.approx(truth.boxes[[0, 0, 1]])


def test_a_corrected_box_stays_on_the_scene() -> None:
    box = regions.decode(array((100, 100, 120, 120)), array((20, 0, 5, 5)))
    assert box.max() <= scenes.SIDE


def test_a_quarter_of_the_regions_hits_and_the_rest_nearly_does() -> None:
    overlap = np.repeat([0.9, 0.5, 0.3, 0.1, 0.05], [10, 30, 20, 40, 50])
    chosen = regions.sample(np.random.default_rng(0), overlap)
    assert len(chosen) == len(set(chosen)) == regions.REGIONS
    assert (overlap[chosen] >= 0.5).sum() == regions.POSITIVES == 16
    assert overlap[chosen].min() >= 0.1


@pytest.mark.parametrize(("overlap", "hits"), [([0.7, 0.2], 1), ([0.3, 0.05], 0), ([0.6, 0.0], 1)])
def test_too_few_proposals_are_taken_again(overlap: list[float], hits: int) -> None:
    chosen = regions.sample(np.random.default_rng(0), np.array(overlap))
    assert len(chosen) == regions.REGIONS
    assert (chosen == 0).sum() == (hits or regions.REGIONS)


def test_a_batch_is_its_step() -> None:
    first, again, other = (regions.make_batch(step, "float32") for step in (3, 3, 4))
    assert all(map(np.array_equal, first, again))
    assert not np.array_equal(first.images, other.images)
    for name, part in first._asdict().items():
        assert part.dtype == ("int32" if name == "labels" else "float32")
    assert first.boxes.shape == (2, 64, 4)
    assert (first.boxes[..., 2:] - first.boxes[..., :2]).min() >= 4
    assert (first.corrections[first.labels == 0] == 0).all()


# Evaluation ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("hits", "truths", "expected"),
    [
        ([1, 1], 2, 1),
        ([1, 0, 1], 2, 1 / 2 + 1 / 2 * 2 / 3),
        ([0, 1, 1], 2, 2 / 3),  # precision 1/2 at recall 1/2 is raised to the 2/3 that follows
        ([1], 4, 1 / 4),
        ([0, 0], 3, 0),
        ([], 3, 0),
    ],
)
def test_average_precision_by_hand(hits: list[int], truths: int, expected: float) -> None:
    assert average_precision(np.array(hits, bool), truths) == pytest.approx(expected)


def test_mean_average_precision_by_hand() -> None:
    truths = [scene((1, (0, 0, 10, 10)), (2, (20, 20, 40, 40))), scene((1, (50, 50, 60, 60)))]
    found = [
        Detections(
            array((0, 0, 10, 10), (0, 0, 10, 9), (20, 20, 40, 34)),
            np.array([1, 1, 2]),
            np.array([0.9, 0.8, 0.7]),
        ),
        Detections(array((50, 50, 60, 58)), np.array([1]), np.array([0.6])),
    ]
    # Class 1: a hit, the same digit again, a hit of overlap 0.8. Class 2: overlap 0.7.
    first = 1 / 2 + 1 / 2 * 2 / 3
    assert mean_average_precision(found, truths, 0.5) == pytest.approx((first + 1) / 2)
    assert mean_average_precision(found, truths, 0.75) == pytest.approx((first + 0) / 2)
    assert mean_average_precision(found, truths, 0.9) == pytest.approx((1 / 2 + 0) / 2)


def test_suppression_by_hand() -> None:
    boxes = array((0, 0, 10, 10), (0, 0, 10, 8), (20, 0, 30, 10), (0, 5, 10, 15))
    scores = np.array([0.6, 0.9, 0.1, 0.7])
    # Row 0 overlaps row 1 by 0.8, row 3 overlaps row 1 by 3 / 15.
    assert suppress(boxes, scores, 0.3).tolist() == [1, 3, 2]
    assert suppress(boxes, scores, 0.9).tolist() == [1, 3, 0, 2]
    assert suppress(boxes[:0], scores[:0], 0.3).tolist() == []


# Pictures -----------------------------------------------------------------------------------------


def test_gradients_of_boxes_that_share_cells_add_up() -> None:
    boxes = array((20, 20, 60, 60), (28, 24, 70, 66), (24, 30, 58, 64))
    alone, together = walkthrough.gradients(boxes)
    assert ((alone > 0).sum(axis=0) == 3).any()
    assert together == pytest.approx(alone.sum(axis=0), rel=1e-14)
    # Each bin averages: the weights that it gives to the cells have the sum 1.
    assert alone.sum(axis=(1, 2)) == pytest.approx(np.full(3, network.BINS**2))


# The frameworks -----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def make(get_lib: Callable[[str], Any]) -> Callable[..., network.Detector]:
    """A framework's detector with the initial weights; skips if the framework is missing."""

    def make(framework: str, settings: network.Settings = EXACT) -> network.Detector:
        get_lib(framework)
        if framework == "jax":
            pytest.importorskip("optax")
        return training.make_detector(framework, settings, network.first_weights())

    return make


@pytest.fixture(scope="module")
def walk(make: Callable[..., network.Detector]) -> Callable[[str, str], training.Path]:
    """The first steps of a framework with a pooling in float64, computed once."""

    @cache
    def walk(framework: str, pool: str) -> training.Path:
        make(framework)
        return training.walk(framework, EXACT._replace(pool=pool), STEPS)

    return walk


@pytest.mark.parametrize("pool", network.POOLS)
@pytest.mark.parametrize("framework", training.FRAMEWORKS[1:])
def test_frameworks_train_alike(
    framework: str, pool: str, walk: Callable[[str, str], training.Path]
) -> None:
    first, other = walk(training.FRAMEWORKS[0], pool), walk(framework, pool)
    apart = training.difference([first, other])
    assert apart.gradients < 1e-9
    assert apart.losses < 1e-6
    assert len(other.losses) == STEPS
    assert all(abs(gradient).max() > 0 for gradient in other.gradients.values())


def test_gradients_are_those_of_the_loss(make: Callable[..., network.Detector]) -> None:
    """One framework's gradients against differences of its loss; the others agree with it."""
    batch = regions.make_batch(0, "float64")
    weights = network.first_weights()
    gradients = make("torch").gradients(batch)
    rng = np.random.default_rng(0)
    for name in ("conv2", "conv5_offset", "hidden", "corrections"):
        direction = rng.normal(size=weights[name].shape)
        losses = []
        for sign in (-1, 1):
            moved = weights | {name: weights[name] + sign * 1e-6 * direction}
            losses.append(training.make_detector("torch", EXACT, moved).step(batch))
        slope = (losses[1] - losses[0]) / 2e-6
        assert (gradients[name] * direction).sum() == pytest.approx(slope, rel=1e-4, abs=1e-7)


def test_weights_of_one_framework_are_those_of_another(
    make: Callable[..., network.Detector], tmp_path: Path
) -> None:
    batch = regions.make_batch(0, "float64")
    results = []
    detector = make(training.FRAMEWORKS[0])
    detector.step(batch)
    network.save(tmp_path / "weights.npz", detector.weights(), "align")
    weights, pool = network.load(tmp_path / "weights.npz")
    assert pool == "align"
    for framework in training.FRAMEWORKS:
        make(framework)
        detector = training.make_detector(framework, EXACT, weights)
        assert all(np.array_equal(weights[name], each) for name, each in detector.weights().items())
        results.append(detector.predict(batch.images, batch.boxes))
        features = detector.features(batch.images)
        assert features.shape == (2, 16, 16, network.CHANNELS[-1])
    for scores, corrections in results:
        assert scores.sum(axis=-1) == pytest.approx(1)
        assert scores == pytest.approx(results[0][0], abs=1e-12)
        assert corrections == pytest.approx(results[0][1], abs=1e-12)


@pytest.mark.parametrize("framework", training.FRAMEWORKS)
def test_suppression_of_a_framework(framework: str, make: Callable[..., network.Detector]) -> None:
    rng = np.random.default_rng(5)
    start = rng.uniform(0, 60, (40, 2))
    boxes = np.concatenate([start, start + rng.uniform(5, 40, (40, 2))], axis=1)
    scores = rng.uniform(size=40)
    kept = make(framework).suppress(boxes, scores, 0.3)
    assert kept.tolist() == suppress(boxes, scores, 0.3).tolist()
    assert 5 < len(kept) < 40


@pytest.mark.parametrize("framework", training.FRAMEWORKS)
def test_a_short_run(
    framework: str,
    make: Callable[..., network.Detector],
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make(framework)
    output = ["--scenes", "4", "--output", str(tmp_path)]
    main(["--framework", framework, "--pool", "pool", "--steps", "2", *output])
    shown = capsys.readouterr()
    assert "2/2" in shown.err  # progress
    assert f"{framework}, RoIPool: 2 steps in" in shown.out
    assert "on 4 held-out scenes" in shown.out
    written = {path.name for path in tmp_path.iterdir()}
    pictures = {"cells.png", "detections.png", "gradients.png", "pooled.png"}
    assert written == pictures | {"checkpoint.npz"}
    main(["--framework", framework, "--evaluate", str(tmp_path / "checkpoint.npz"), *output])
    again = capsys.readouterr().out
    assert shown.out.splitlines()[2] == again.splitlines()[0]  # pooling and precision
    assert "RoIPool: mAP@0.5" in again


def test_training_lowers_the_loss(make: Callable[..., network.Detector]) -> None:
    detector = make("torch", network.Settings(steps=40))
    batches = [regions.make_batch(step, "float32") for step in range(4)]
    losses = [detector.step(batch) for _ in range(10) for batch in batches]
    assert np.mean(losses[-4:]) < 0.75 * np.mean(losses[:4])
