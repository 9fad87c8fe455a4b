"""roidl.keras on each backend, in a process of its own: against the oracle and each other."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import oracle

BACKENDS = ("tensorflow", "torch", "jax")
HERE = Path(__file__).parent
Found = dict[str, Any]


@pytest.fixture(scope="module")
def found(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Found]:
    """What tests/keras_head.py found on each backend that is installed."""
    required = request.config.getoption("--require-front-ends").split(",")
    installed = [name for name in BACKENDS if importlib.util.find_spec(name)]
    assert set(BACKENDS) & set(required) <= set(installed)
    if importlib.util.find_spec("keras") is None:
        pytest.skip("keras is not installed")
    folder = tmp_path_factory.mktemp("keras")
    running = {}
    for name in installed:
        more = {"KERAS_BACKEND": name, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_HOME": str(folder)}
        running[name] = subprocess.Popen(
            [sys.executable, str(HERE / "keras_head.py"), str(folder / f"{name}.npz")],
            env=os.environ | more,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
    results = {}
    for name, process in running.items():
        said, _ = process.communicate()
        assert process.returncode == 0, f"{name}: {said}"
        with np.load(folder / f"{name}.npz") as file:
            results[name] = dict(file)
    return results


@pytest.fixture(params=BACKENDS)
def one(request: pytest.FixtureRequest, found: dict[str, Found]) -> Found:
    if request.param not in found:
        pytest.skip(f"{request.param} is not installed")
    return found[request.param]


def test_what_must_be_true_everywhere(one: Found) -> None:
    claims = {name: bool(value) for name, value in one.items() if name.endswith("?")}
    assert len(claims) > 60
    assert [name for name, value in claims.items() if not value] == []


def test_layers_against_the_oracle(one: Found) -> None:
    import keras_head as head

    input = head.FEATURES.transpose(0, 3, 1, 2)
    rows = np.concatenate(
        [np.repeat(np.arange(head.N), head.L)[:, None], head.BOXES.reshape(-1, 4)], 1
    )
    expected = {
        "align avg": oracle.roi_align(input, rows, (2, 3), head.SCALE, 2),
        "align max": oracle.roi_align(input, rows, (2, 3), head.SCALE, (2, 1), True, mode="max"),
        "pool max": oracle.roi_pool(input, rows, (2, 2), head.SCALE)[0],
        "pool avg": oracle.roi_pool(input, rows, (2, 2), head.SCALE, mode="avg")[0],
    }
    for name, want in expected.items():
        got = one[name]
        got = got.reshape(-1, *got.shape[2:]).transpose(0, 3, 1, 2)
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_a_pyramid_against_the_oracle(one: Found) -> None:
    import keras_head as head

    boxes = head.GROUPED.reshape(-1, 4)
    rows = np.concatenate([np.repeat(np.arange(head.N), head.L)[:, None], boxes], 1)
    got = one["pyramid"].reshape(-1, *one["pyramid"].shape[2:]).transpose(0, 3, 1, 2)
    level = (boxes[:, 2] - boxes[:, 0] > 8).astype(int)
    for k, features in enumerate(head.MAPS):
        at = np.flatnonzero(level == k)
        assert len(at) > 0
        x = features.transpose(0, 3, 1, 2)
        want = oracle.roi_align(x, rows[at], (2, 3), head.SCALES[k], 2, True)
        np.testing.assert_allclose(got[at], want, rtol=1e-5, atol=1e-6)


def test_boxes_keep_their_precision(one: Found) -> None:
    """In float16 the box would begin at 2048, and be between a stripe of 1 and one of 0."""
    np.testing.assert_array_equal(one["half"].ravel(), [1])


def test_a_head_converges(one: Found) -> None:
    losses = one["losses"]
    assert losses[-1] < losses[0] / 5
    losses = one["pyramid losses"]
    assert losses[-1] < losses[0] / 2


def test_the_backends_agree(found: dict[str, Found]) -> None:
    if len(found) < 2:
        pytest.skip("only one backend is installed")
    first, *others = found.values()
    for other in others:
        for losses in ("losses", "pyramid losses"):
            np.testing.assert_allclose(other[losses], first[losses], rtol=1e-4)
        np.testing.assert_allclose(other["predictions"], first["predictions"], atol=1e-3)
