"""The C interface of PyTorch as we declare it, against the library that is installed."""

from __future__ import annotations

import ctypes
import re
from pathlib import Path
from typing import Any

import pytest

torch: Any = pytest.importorskip("torch")

HEADER = (Path(__file__).parents[1] / "src" / "abi" / "torch.h").read_text()


@pytest.fixture(scope="module")
def libtorch() -> ctypes.CDLL:
    return ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))


def test_the_numbers_of_dtypes(libtorch: ctypes.CDLL) -> None:
    body = re.search(r"enum class TorchDtype : int32_t {(.*?)}", HEADER, re.DOTALL)
    assert body is not None
    declared = {name: int(number) for name, number in re.findall(r"(\w+) = (\d+)", body[1])}
    declared["bool"] = declared.pop("boolean")
    assert len(declared) == 16
    for name, number in declared.items():
        assert getattr(libtorch, f"aoti_torch_dtype_{name}")() == number, name
    assert libtorch.aoti_torch_device_type_cpu() == 0


def test_every_symbol_is_asked_for_by_its_own_name(libtorch: ctypes.CDLL) -> None:
    members = set(re.findall(r"TorchError \(\*(\w+)\)", HEADER))
    asked = re.findall(r'visit\("(\w+)", shim\.(\w+)\)', HEADER)
    assert {name for name, _ in asked} == members
    assert all(name == member for name, member in asked)
    assert all(hasattr(libtorch, name) for name in members)


def test_the_kernels_are_native() -> None:
    from roidl.torch import _library

    version = tuple(map(int, torch.__version__.split(".")[:2]))
    if version < (2, 10):
        assert _library.MISSING is not None
    else:
        assert _library.MISSING is None
        for name in _library.OPERATORS:
            assert "CPU: registered at roidl:1" in torch._C._dispatch_dump(f"roidl::{name}")
