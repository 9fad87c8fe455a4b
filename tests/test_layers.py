"""The layers of the code, checked by reading includes and imports: calls go down only."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from roidl import _operators, _params

ROOT = Path(__file__).parents[1]
SRC, PYTHON = ROOT / "src", ROOT / "python" / "roidl"
FRAMEWORKS = {"cupy", "jax", "jaxlib", "keras", "tensorflow", "torch"}


def files_of(*folders: str, suffixes: str) -> list[Path]:
    found = [path for folder in folders for path in sorted((ROOT / folder).rglob("*"))]
    return [path for path in found if path.suffix in suffixes.split()]


def name_of(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


# C++ ----------------------------------------------------------------------------------------------

GROUND = {"error.h", "tensor.h", "dtype.h", "geometry.h", "host_device.h"}
GROUND |= {"check.h", "check.cpp"}
GROUND |= {"boxes.h", "boxes.cpp"}
GROUND |= {"floating_point.h", "interrupt.h", "interrupt.cpp"}
SOURCES = files_of("src", "cuda", suffixes=".h .cpp .pyx .pxd .pxi .cu .cuh")
# Headers of other libraries: only a binding or bridge includes them.
OUTSIDE = re.compile(
    r"Python|numpy|pybind|nanobind|torch|ATen|c10|tensorflow|tsl|xla|jax|cuda|cub|thrust|dlpack/"
)


def layer(path: Path) -> int:
    """0 base, 1 operators as described, 2 kernels, 3 operators as checked, 4 bindings."""
    if path.parent != SRC:
        return {"abi": 0, "cpu": 2, "cuda": 2, "bridge": 4}[path.relative_to(ROOT).parts[-2]]
    if path.suffix in (".pyx", ".pxd", ".pxi") or path.name.startswith("python_"):
        return 4
    return 0 if path.name in GROUND else 1 if path.suffix == ".h" else 3


@cache
def includes(path: Path) -> tuple[str, ...]:
    """The included headers; of Cython's files, those in `cdef extern from`."""
    pattern = r'^\s*#\s*include\s*[<"]([^>"]+)[>"]|^cdef extern from "([^"]+)"'
    found = re.findall(pattern, path.read_text(), re.MULTILINE)
    return tuple(first or second for first, second in found)


def own_includes(path: Path) -> Iterator[Path]:
    for include in includes(path):
        for folder in (path.parent, SRC):
            if (folder / include).is_file():
                yield (folder / include).resolve()
                break


def closure(path: Path) -> set[Path]:
    """The file and all of ours that it includes, directly or not."""
    found, waiting = set(), [path]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found.add(path)
            waiting += own_includes(path)
    return found


def test_the_sources_are_found() -> None:
    assert {layer(path) for path in SOURCES} == {0, 1, 2, 3, 4}
    assert SRC / "tensor.h" in own_includes(SRC / "check.h")
    assert SRC / "error.h" in closure(SRC / "roi_align.cpp")


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_includes_point_to_lower_layers(path: Path) -> None:
    up = [name_of(other) for other in own_includes(path) if layer(other) > layer(path)]
    assert up == []


def on(*layers: int) -> pytest.MarkDecorator:
    paths = [path for path in SOURCES if layer(path) in layers]
    return pytest.mark.parametrize("path", paths, ids=name_of)


@on(2, 4)
def test_devices_and_bindings_do_not_include_each_other(path: Path) -> None:
    neighbour = {"cpu": "cuda", "cuda": "cpu", "bridge": "_core"}.get(path.parent.name, "bridge")
    assert [include for include in includes(path) if neighbour in include] == []


@on(0, 1, 2, 3)
def test_only_bindings_include_external_headers(path: Path) -> None:
    outside = [include for include in includes(path) if OUTSIDE.match(include)]
    assert outside == [] or path.suffix in (".cu", ".cuh")


@on(0, 1, 3)
def test_kernels_are_reached_by_the_backend_alone(path: Path) -> None:
    assert [other for other in own_includes(path) if layer(other) == 2] == []


@on(0, 1, 2, 4)
def test_only_the_operators_choose_a_device(path: Path) -> None:
    # A device's backend file fills the table.
    tables = ("backend", "entries", "workspace")
    assert SRC / "backend.h" not in own_includes(path) or path.stem in tables


@on(2)
def test_kernels_do_not_include_checks(path: Path) -> None:
    assert SRC / "check.h" not in own_includes(path)


def test_kernels_use_nothing_that_could_be_shared_with_other_instruction_sets() -> None:
    kernels = closure(SRC / "cpu" / "kernels.cpp")
    assert {path.name for path in kernels} >= {"kernels_taps.h", "plane.h", "block.h"}
    ours = {include for path in kernels for include in includes(path) if include.endswith(".h")}
    standard = {include for path in kernels for include in includes(path)} - ours
    assert standard <= {"cstddef", "cstdint", "cstring", "type_traits"}
    assert {path.name for path in kernels} & {
        "error.h",
        "check.h",
        "tensor.h",
        "backend.h",
    } == set()


# Python -------------------------------------------------------------------------------------------

MODULES = files_of("python", suffixes=".py")


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports anywhere in it; relative ones start with a dot."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (name.name for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            module = "." * node.level + (node.module or "")
            yield from [module] if node.module else (module + name.name for name in node.names)


# From the bottom up: a module imports those of lower layers alone.
LAYERS = [
    ["_core"],
    ["_operators"],
    ["_params", "_derivatives"],
    ["_ops", "_position_sensitive", "_multiscale", "_command_line"],
    ["_public", "_array_libraries", "_bridge", "_recycled"],
    ["_numpy", "_shapes"],
    ["torch", "jax", "tensorflow"],
    ["_dispatch", "_info"],
    ["__init__", "keras", "demo", "_demo_definition", "_demo_figure", "_demo_scene"],
    ["__main__"],
]
LAYER = {module: number for number, layer in enumerate(LAYERS) for module in layer}
# The demo is a program of four files, which calls what users call.
TOGETHER = {"demo", "_demo_definition", "_demo_figure", "_demo_scene", "__init__"}


def layer_module(path: Path) -> str:
    """A module, or the package of an adapter."""
    return path.relative_to(PYTHON).parts[0].removesuffix(".py")


def imported_modules(path: Path) -> set[str]:
    """The modules of ours that a file imports anywhere in it, by their names in LAYERS."""
    depth = len(path.relative_to(PYTHON).parts)
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if not isinstance(node, ast.ImportFrom) or node.level != depth:
            continue
        names = [node.module] if node.module else [alias.name for alias in node.names]
        found |= {name.partition(".")[0] for name in names}
    return {name if name in LAYER else "__init__" for name in found}


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_modules_import_lower_layers_only(path: Path) -> None:
    module = layer_module(path)
    higher = [
        other
        for other in imported_modules(path)
        if LAYER[other] >= LAYER[module] and not {module, other} <= TOGETHER
    ]
    assert higher == []


@pytest.mark.parametrize("name", ["_operators.py", "_params.py", "_derivatives.py", "_ops.py"])
def test_operator_descriptions_import_only_the_standard_library(name: str) -> None:
    found = {module for module in imports(PYTHON / name) if not module.startswith(".")}
    assert {module.partition(".")[0] for module in found} <= sys.stdlib_module_names


@pytest.mark.parametrize("path", MODULES, ids=name_of)
def test_only_a_frameworks_own_file_imports_it(path: Path) -> None:
    found = {module.partition(".")[0] for module in imports(path)} & FRAMEWORKS
    own = {path.stem, path.parent.name}
    assert found <= own | ({"jaxlib"} if "jax" in own else set())


def test_a_call_imports_no_framework() -> None:
    code = """
import sys, numpy as np, roidl
features, boxes = np.ones((1, 2, 8, 8), np.float32), np.array([[0, 1, 1, 6, 6]], np.float32)
pooled = roidl.roi_align(features, boxes, 2)
roidl.roi_align_backward(pooled, boxes, features.shape)
roidl.roi_pool(features, [boxes[:, 1:]], 2)
roidl.build_info()
print(*{name.partition(".")[0] for name in sys.modules})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "roidl" in done.stdout.split()
    assert set(done.stdout.split()) & FRAMEWORKS == set()


# One spelling -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["RoiAlignParams", "RoiPoolParams"])
def test_parameters_have_the_fields_of_the_compiled_structs(name: str) -> None:
    header = (
        SRC / {"RoiAlignParams": "roi_align.h", "RoiPoolParams": "roi_pool.h"}[name]
    ).read_text()
    body = re.search(rf"struct {name} {{(.*?)}};", header, re.DOTALL)
    assert body is not None
    declared = tuple(re.findall(r"^\s*\w+ (\w+);", body[1], re.MULTILINE))
    family = _operators.FAMILIES[{"RoiAlignParams": "roi_align", "RoiPoolParams": "roi_pool"}[name]]
    compiled = tuple(field.name for field in family.fields)
    assert getattr(_params, name)._fields == compiled == declared


@pytest.mark.parametrize(
    ("enum", "header", "ours"),
    [
        ("AlignMode", "roi_align.h", _params.ALIGN_MODES),
        ("PoolMode", "roi_pool.h", _params.POOL_MODES),
        ("Layout", "problem.h", {name.lower(): n for name, n in _params.LAYOUTS.items()}),
    ],
)
def test_modes_and_layouts_have_the_numbers_of_the_headers(
    enum: str, header: str, ours: dict[str, int]
) -> None:
    body = re.search(rf"enum class {enum} : int32_t {{([^}}]*)}}", (SRC / header).read_text())
    assert body is not None
    pairs = re.findall(r"(\w+) = (\d+)", body[1])
    assert {name: int(number) for name, number in pairs} == ours


# Files --------------------------------------------------------------------------------------------

FILES = files_of(
    "src", "cuda", "python", "tests", "benchmarks", "examples",
    suffixes=".h .cpp .cu .cuh .py .pyi .pyx .pxd .pxi",
)  # fmt: skip


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_is_short(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= 400


@pytest.mark.parametrize("path", FILES, ids=name_of)
def test_a_file_opens_with_its_sentence(path: Path) -> None:
    text = re.sub(r"\A(#!.*\n|# (cython|distutils): .*\n)*", "", path.read_text())
    comment = "#" if path.suffix in (".py", ".pyi", ".pyx", ".pxd", ".pxi") else "//"
    opening = re.match(rf'"""(.*?)"""|((?:{comment} .*\n)+)', text, re.DOTALL)
    assert opening is not None
    assert re.match(r"\W*\w.*[.:]\s", f"{opening[1] or opening[2]}\n", re.DOTALL)
