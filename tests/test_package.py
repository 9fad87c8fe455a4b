"""The installed package: examples run, versions agree, imports are minimal."""

from __future__ import annotations

import doctest
import importlib.metadata
import importlib.util
import inspect
import os
import platform
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import resources
from pathlib import Path
from typing import Any, get_type_hints

import pytest

import roidl
from roidl import _core, _ops

ROOT = Path(__file__).parents[1]
FUNCTIONS = [name for name in roidl.__all__ if callable(getattr(roidl, name))]


@pytest.fixture(autouse=True)
def _the_number_of_threads_is_restored() -> Iterator[None]:
    before = roidl.get_num_threads()
    yield
    roidl.set_num_threads(before)


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
    )


# What is written is true --------------------------------------------------------------------------


@pytest.mark.parametrize("name", FUNCTIONS)
def test_the_example_of_a_function_runs(name: str) -> None:
    function = getattr(roidl, name)
    tests = doctest.DocTestFinder(recurse=False).find(function, name, globs={})
    assert sum(len(test.examples) for test in tests) > 0, "no example"
    printed: list[str] = []
    runner = doctest.DocTestRunner()
    for test in tests:
        runner.run(test, out=printed.append)
    assert runner.failures == 0, "".join(printed)


@pytest.mark.parametrize("name", FUNCTIONS)
def test_every_parameter_is_documented(name: str) -> None:
    function = getattr(roidl, name)
    text = inspect.getdoc(function) or ""
    for parameter in inspect.signature(function).parameters:
        assert re.search(rf"^(\w+, )*{parameter}(, \w+)*( :.*)?$", text, re.MULTILINE), parameter


def test_functions_are_described_in_one_place() -> None:
    described = [name for name, _ in inspect.getmembers(_ops, inspect.isfunction)]
    public = [name for name in described if getattr(_ops, name).__module__ == "roidl._ops"]
    assert set(public) <= set(FUNCTIONS)
    for name in public:
        ours, public_one = getattr(_ops, name), getattr(roidl, name)
        assert public_one.__doc__ == ours.__doc__
        assert public_one.__module__ == "roidl"
        assert public_one.__qualname__ == name
        parameters = inspect.signature(public_one).parameters
        assert parameters == inspect.signature(ours).parameters
        assert inspect.signature(public_one).return_annotation is Any
        assert set(get_type_hints(public_one)) == {*parameters, "return"}


README = (ROOT / "README.md").read_text()
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)


def test_the_readme_has_an_example() -> None:
    assert len(BLOCKS) > 0


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_the_readmes_example_runs(block: str) -> None:
    """The comment after a line is the line's output."""
    for framework in ("torch", "jax", "tensorflow", "keras"):
        needed = re.search(rf"^\s*(import|from) {framework}\b", block, re.MULTILINE)
        if needed and importlib.util.find_spec(framework) is None:
            pytest.skip(f"{framework} is not installed")
    done = python(block)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == re.findall(r"^print\(.*\)  # (.*)$", block, re.MULTILINE)


# What build_info says -----------------------------------------------------------------------------


def test_build_info() -> None:
    info = roidl.build_info()
    assert set(info) == {
        "version",
        "python",
        "platform",
        "instruction_set",
        "stress",
        "threads",
        "cuda",
        "frameworks",
    }
    assert info["version"] == roidl.__version__
    assert info["python"] == platform.python_version()
    assert info["threads"] == roidl.get_num_threads()
    assert info["instruction_set"] in ("avx512", "avx2", "baseline")
    assert set(info["cuda"]) == {"built", "usable", "architectures"}
    assert info["frameworks"]["numpy"] == importlib.metadata.version("numpy")
    for name in ("cupy", "torch", "jax", "tensorflow", "keras"):
        assert (name in info["frameworks"]) == (importlib.util.find_spec(name) is not None)


def test_one_version() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project.get("version", roidl.__version__) == roidl.__version__
    assert ("version" in project) != ("version" in project.get("dynamic", ()))
    assert importlib.metadata.version("roidl") == roidl.__version__
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", roidl.__version__)


# What an import and a wish do ---------------------------------------------------------------------

INSTRUCTION_SET = "import roidl; print(roidl.build_info()['instruction_set'])"


def test_an_instruction_set_can_be_asked_for() -> None:
    best = python(INSTRUCTION_SET, ROIDL_ISA="").stdout
    assert best.strip() in ("avx512", "avx2", "baseline")
    for name in ("baseline", best.strip()):
        assert python(INSTRUCTION_SET, ROIDL_ISA=name).stdout.strip() == name


def test_unknown_instruction_set() -> None:
    call = "roidl.roi_align(np.ones((1, 1, 2, 2)), np.ones((1, 4)), 1)"
    code = f"""
import numpy as np, roidl
for use in (lambda: {call}, roidl.build_info, lambda: {call}):
    try:
        use()
    except ValueError as error:
        print(error)
"""
    done = python(code, ROIDL_ISA="mmx")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 3
    for line in lines:
        assert re.fullmatch(r"roidl: ROIDL_ISA must be one of .*\bbaseline\b.*, got 'mmx'", line)


def test_import_loads_only_numpy_and_roidl() -> None:
    code = """
import sys, numpy
before = set(sys.modules)
import roidl
print(*sorted({name.partition(".")[0] for name in set(sys.modules) - before}))
"""
    done = python(code)
    assert done.returncode == 0, done.stderr
    added = set(done.stdout.split())
    assert "roidl" in added
    # An editable install adds a finder; Cython's modules share one module.
    ours = {name for name in added if re.fullmatch(r"roidl|_roidl_\w+|_?cython_\w+", name)}
    assert added - ours <= sys.stdlib_module_names


def test_types_are_shipped() -> None:
    package = resources.files("roidl")
    assert package.joinpath("py.typed").is_file()
    stub = package.joinpath("_core.pyi").read_text()
    declared = set(re.findall(r"^def (\w+)", stub, re.MULTILINE))
    compiled = {name: value for name, value in vars(_core).items() if not name.startswith("_")}
    assert declared == {name for name, value in compiled.items() if inspect.isroutine(value)}


# Shapes alone -------------------------------------------------------------------------------------


def test_shapes_alone_give_result_shapes_and_errors() -> None:
    params = roidl._params.RoiAlignParams(7, 6, 0.5, 2, 2, True, 0, 0)._asdict()
    boxes = ((5, 5), "float32")
    shape = _core.result_shape("roi_align", params, ((2, 3, 8, 8), "bfloat16"), boxes, None)
    assert shape == (5, 3, 7, 6)
    grouped = ((2, 4, 4), "float16")
    indices = ((9,), "int64")
    pool = roidl._params.RoiPoolParams(2, 2, 1.0, 0, 1)._asdict()
    features = ((2, 8, 8, 3), "float64")
    assert _core.result_shape("roi_pool", pool, features, grouped, None) == (2, 4, 2, 2, 3)
    rows = ((9, 4), "int32")
    assert _core.result_shape("roi_pool", pool, features, rows, indices) == (9, 2, 2, 3)
    with pytest.raises(ValueError, match=r"roi_pool: boxes must have shape \[K, 5\], got \[3, 6\]"):
        _core.result_shape("roi_pool", pool, features, ((3, 6), "float32"), None)
    with pytest.raises(TypeError, match=r"roi_pool: input must be float16, .* got complex64"):
        _core.result_shape("roi_pool", pool, ((2, 8, 8, 3), "complex64"), grouped, None)
    nine = ((1,) * 9, "float32")
    for place, name in enumerate(("input", "boxes", "batch_indices")):
        arrays: Any = [features, rows, indices]
        arrays[place] = nine
        with pytest.raises(ValueError, match=f"^roi_pool: {name} has 9 dimensions, at most 8"):
            _core.result_shape("roi_pool", pool, *arrays)
    with pytest.raises(ValueError, match=r"^roi_pool: boxes\[1\] has 9 dimensions, at most 8"):
        _core.check_box_list("roi_pool", [((1, 4), "float32"), nine], 2)


def test_a_list_of_boxes_is_checked_by_its_shapes() -> None:
    _core.check_box_list("roi_align", [((3, 4), "float32"), ((0, 4), "int64")], 2)
    with pytest.raises(ValueError, match=r"boxes\[1\] must have shape \[L, 4\], got \[3, 5\]"):
        _core.check_box_list("roi_align", [((3, 4), "float32"), ((3, 5), "float32")], 2)
    with pytest.raises(ValueError, match=r"one array per image \(3\), got 1"):
        _core.check_box_list("roi_align", [((3, 4), "float32")], 3)
