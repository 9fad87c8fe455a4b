"""The command line: `roidl demo` end to end, its one-line errors, its exit status; `roidl info`."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import pytest

import oracle
import roidl
from cases import ALIGN_CASES, POOL_CASES, Case
from roidl import _demo_definition as definition
from roidl import _demo_scene as scene
from roidl import demo
from roidl.__main__ import main

MISSING = [
    module
    for module in ("matplotlib", "skimage", "tqdm")
    if importlib.util.find_spec(module) is None
]
needs_extra = pytest.mark.skipif(bool(MISSING), reason=f"the extra demo is missing: {MISSING}")
PNG = b"\x89PNG\r\n\x1a\n"


@pytest.fixture(scope="module")
def picture(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A picture, wider than high, whose sides are no multiples of the coarse map's cells."""
    image = pytest.importorskip("PIL.Image")
    y, x = np.mgrid[:50, :70]
    colours = np.stack([3 * x + y, 5 * y, (x // 8 + y // 8) % 2 * 200], axis=-1)
    path = tmp_path_factory.mktemp("picture") / "picture.png"
    image.fromarray(colours.astype(np.uint8)).save(path)
    return path


def _demo(picture: Path, *arguments: str | Path) -> list[str]:
    """The arguments of a demo on NumPy only; later ones override."""
    output = picture.with_name("figure.png")
    defaults = ("--image", picture, "--output", output, "--frameworks", "numpy")
    return [str(argument) for argument in ("demo", *defaults, *arguments)]


# End to end ---------------------------------------------------------------------------------------


@needs_extra
def test_demo_runs_from_any_folder(picture: Path, tmp_path: Path) -> None:
    boxes = ("3.3,4.4,40.7,44.1", "10,0,70,50")
    arguments = ("--image", str(picture), "--boxes", *boxes, "--frameworks", "numpy")
    done = subprocess.run(
        [sys.executable, "-m", "roidl", "demo", *arguments],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    table = [line.split() for line in done.stdout.splitlines()]
    row = next(cells for cells in table if cells[:1] == ["numpy"])
    assert row[1:3] == [np.__version__, "cpu"]
    assert float(row[3]) > 0
    assert float(row[4]) > 0
    assert 0 < float(row[5]) < 1e-6  # zero would mean that float32 was compared with itself
    assert "importing numpy" in done.stderr  # progress
    figure = (tmp_path / "roidl-demo.png").read_bytes()
    assert figure.startswith(PNG)
    assert len(figure) > 20_000  # an empty figure is much smaller


@needs_extra
def test_default_picture_and_cascade_need_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(*_: Any) -> NoReturn:
        raise AssertionError("the demo went to the network")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(demo, "REPEATS", 1)
    output = tmp_path / "figure.png"
    assert main(["demo", "--frameworks", "numpy", "--output", str(output)]) == 0
    assert "512 x 512 pixels: face, " in capsys.readouterr().out
    assert output.read_bytes().startswith(PNG)


@needs_extra
def test_large_pictures_are_reduced_and_boxes_stay(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(scene, "LARGEST_SIDE", 30)
    monkeypatch.setattr(demo, "REPEATS", 1)
    assert main(_demo(picture, "--boxes", "10,0,70,50")) == 0
    out = capsys.readouterr().out
    assert "70 x 50 pixels" in out
    assert "picture: 3 x 17 x 24, spatial_scale 0.333333" in out


@pytest.mark.parametrize("name", sorted(demo.FRONT_ENDS))
def test_front_ends_keep_arrays(name: str) -> None:
    if name not in roidl.build_info()["frameworks"]:
        pytest.skip(f"{name} is not installed")
    if name == "cupy" and not roidl.build_info()["cuda"]["usable"]:
        pytest.skip("CUDA is not usable")
    front_end = demo._load(name)
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    passed = front_end.asarray(array)
    front_end.synchronize()
    assert type(passed).__module__.partition(".")[0].removesuffix("lib") == name
    np.testing.assert_array_equal(front_end.to_numpy(passed), array)


# Disagreement -------------------------------------------------------------------------------------


@needs_extra
@pytest.mark.parametrize("wrong", [2e-5, float("nan")])
@pytest.mark.parametrize("op", ["roi_align", "roi_align_backward", "roi_pool", "roi_pool_backward"])
def test_disagreement_exits_with_one(
    op: str,
    wrong: float,
    picture: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    right = getattr(roidl, op)

    def off_by_a_little(*args: Any, **kwargs: Any) -> Any:
        result = right(*args, **kwargs)
        values = result[0] if isinstance(result, tuple) else result
        values.flat[values.size // 2] += wrong * np.abs(values).max()
        return result

    monkeypatch.setattr(roidl, op, off_by_a_little)
    monkeypatch.setattr(demo, "REPEATS", 1)
    figure = picture.with_name(f"{op}.png")
    assert main(_demo(picture, "--output", figure)) == 1
    captured = capsys.readouterr()
    complaint = captured.err.splitlines()[-1]
    assert "numpy" in complaint
    assert f"{op} on the " in complaint
    assert ("2.0e-05" if wrong == 2e-5 else "inf") in complaint
    assert "DISAGREES" in captured.out
    assert not figure.exists()


@pytest.mark.parametrize(
    "found",
    [np.ones((2, 3)), np.ones((3, 2), np.float32), np.full((2, 3), np.inf, np.float32)],
    ids=["float64", "shape", "inf"],
)
def test_difference_of_invalid_results_is_infinite(found: Any) -> None:
    assert demo._difference(found, np.ones((2, 3))) == float("inf")


# Errors -------------------------------------------------------------------------------------------


def _complaint(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """The last line of a failing run; only progress may precede it."""
    assert main(arguments) == 2
    *progress, complaint = capsys.readouterr().err.splitlines()
    assert all(line.endswith(" ...") for line in progress), progress
    return complaint


@needs_extra
@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--image", "nowhere.png", "no such image file: nowhere.png"),
        ("--image", __file__, f"cannot read the image {__file__}: cannot identify image file"),
        ("--image", os.path.dirname(__file__), "cannot read the image "),
        ("--boxes", "1,2,3", "box '1,2,3' is not four numbers x1,y1,x2,y2"),
        ("--boxes", "1,2,3,x", "box '1,2,3,x' is not four numbers x1,y1,x2,y2"),
        ("--boxes", "9,2,3,4", "box '9,2,3,4' must be x1,y1,x2,y2 with x1 < x2 and y1 < y2"),
        ("--boxes", "1,nan,3,4", "box '1,nan,3,4' must be x1,y1,x2,y2 with x1 < x2 and y1 < y2"),
        ("--boxes", "1,2,inf,4", "box '1,2,inf,4' must be x1,y1,x2,y2 with x1 < x2 and y1 < y2"),
        ("--boxes", "1,2,71,4", "box 1,2,71,4 is not inside the picture, which is 70 x 50 pixels"),
        ("--boxes", "-1,2,3,4", "box -1,2,3,4 is not inside the picture, which is 70 x 50 pixels"),
        ("--frameworks", "pytorch", "unknown framework 'pytorch'; there are numpy, torch, jax"),
        ("--output", "nowhere/figure.png", "cannot write nowhere/figure.png: nowhere is not a "),
        ("--output", "figure.pdf", "cannot write figure.pdf: the figure is a PNG"),
    ],
)
def test_errors_are_one_line(
    option: str, value: str, expected: str, picture: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    complaint = _complaint(_demo(picture, option, value), capsys)
    assert complaint.startswith(f"roidl demo: {expected}")


@needs_extra
def test_truncated_image(picture: Path, capsys: pytest.CaptureFixture[str]) -> None:
    half = picture.with_name("half.png")
    content = picture.read_bytes()
    half.write_bytes(content[: len(content) // 2])
    complaint = _complaint(_demo(picture, "--image", half), capsys)
    assert complaint.startswith(f"roidl demo: cannot read the image {half}: ")


@needs_extra
def test_disk_full(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    full = picture.with_name("full.png")
    full.symlink_to("/dev/full")
    monkeypatch.setattr(demo, "REPEATS", 1)
    complaint = _complaint(_demo(picture, "--output", full), capsys)
    assert complaint == f"roidl demo: cannot write {full}: No space left on device"


@needs_extra
def test_framework_that_is_not_installed(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    installed = importlib.metadata.version

    def all_but_jax(name: str) -> str:
        if name == "jax":
            raise importlib.metadata.PackageNotFoundError(name)
        return installed(name)

    monkeypatch.setattr(importlib.metadata, "version", all_but_jax)
    complaint = _complaint(_demo(picture, "--frameworks", "jax"), capsys)
    how = "pip install '.[jax]' in a clone of roidl"
    assert complaint == f"roidl demo: jax is not installed here: {how}"


@needs_extra
def test_framework_that_cannot_be_imported(
    picture: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "1.0")
    monkeypatch.setitem(sys.modules, "jax", None)
    complaint = _complaint(_demo(picture, "--frameworks", "jax"), capsys)
    assert complaint.startswith("roidl demo: jax is installed but cannot be imported (")
    assert "--frameworks" in complaint


@pytest.mark.parametrize("module", ["skimage", "matplotlib", "tqdm"])
def test_missing_extra_names_the_command(
    module: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("skimage", "matplotlib", "tqdm"):  # as if the other packages were installed
        monkeypatch.setitem(sys.modules, name, None if name == module else pytest)
    complaint = _complaint(["demo"], capsys)
    how = "pip install '.[demo]' in a clone of roidl"
    assert complaint == f"roidl demo: {module} is not installed here: {how}"


# The definition that the demo checks against ------------------------------------------------------


def _on_a_picture(cases: list[Case]) -> list[Case]:
    """The cases with boxes near the picture; the demo's definition does not handle overflow."""
    return [case for case in cases if np.abs(case.boxes).max() < 1e4]


def _maps(case: Case) -> Any:
    return np.random.default_rng(1).uniform(-1, 1, (2, *case.map_shape[1:])).astype(np.float32)


@pytest.mark.parametrize("case", _on_a_picture(ALIGN_CASES), ids=str)
def test_definition_of_roi_align(case: Case) -> None:
    features, boxes = _maps(case), case.boxes.copy()
    boxes[:, 0] = 0
    corners = boxes[:, 1:].astype(np.float32)
    expected = oracle.roi_align(features[None], boxes, (7, 7), case.spatial_scale, -1, True)
    found = definition.roi_align(features, corners, 7, case.spatial_scale)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)
    grad = np.random.default_rng(2).uniform(-1, 1, found.shape).astype(np.float32)
    expected = oracle.roi_align_backward(grad, features[None], boxes, case.spatial_scale, -1, True)[
        0
    ]
    found = definition.roi_align_backward(grad, corners, features.shape, case.spatial_scale)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("case", _on_a_picture(POOL_CASES), ids=str)
def test_definition_of_roi_pool(case: Case) -> None:
    features, boxes = _maps(case), case.boxes.copy()
    boxes[:, 0] = 0
    corners = boxes[:, 1:].astype(np.float32)
    expected, expected_argmax = oracle.roi_pool(features[None], boxes, (7, 7), case.spatial_scale)
    found, argmax = definition.roi_pool(features, corners, 7, case.spatial_scale)
    np.testing.assert_array_equal(found, expected)
    assert expected_argmax is not None
    np.testing.assert_array_equal(argmax, expected_argmax)
    grad = np.random.default_rng(2).uniform(-1, 1, found.shape).astype(np.float32)
    expected = oracle.roi_pool_backward(
        grad, boxes, expected_argmax, (1, *features.shape), case.spatial_scale
    )[0]
    found = definition.roi_pool_backward(grad, argmax, features.shape)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-12)


# The rest of the command line ---------------------------------------------------------------------


def test_info_prints_what_build_info_returns(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert lines[0] == ["version:", roidl.__version__]
    assert ["numpy:", np.__version__] in lines
    names = {cells[0].removesuffix(":") for cells in lines}
    info = roidl.build_info()
    assert names == info.keys() | info["cuda"].keys() | info["frameworks"].keys()


def test_without_a_command_comes_help(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert "demo" in out
    assert "info" in out


def test_the_command_is_installed() -> None:
    (command,) = importlib.metadata.entry_points(group="console_scripts", name="roidl")
    assert command.load() is main
