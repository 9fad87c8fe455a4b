"""The C interface of PyTorch as we declare it, against the library that is installed."""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import sys
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
    for device in ("cpu", "cuda"):
        (number,) = re.findall(rf"kTorch{device.capitalize()} = (\d)", HEADER)
        assert getattr(libtorch, f"aoti_torch_device_type_{device}")() == int(number)


def test_every_symbol_is_asked_for_by_its_own_name(libtorch: ctypes.CDLL) -> None:
    cpu = HEADER.partition("struct TorchCudaShim")[0]
    members = set(re.findall(r"TorchError \(\*(\w+)\)", HEADER))
    asked = re.findall(r'visit\("(\w+)", \w+\.(\w+)\)', HEADER)
    assert {name for name, _ in asked} == members
    assert all(name == member for name, member in asked)
    assert all(hasattr(libtorch, name) for name in re.findall(r"TorchError \(\*(\w+)\)", cpu))


def test_the_kernels_are_native() -> None:
    from roidl.torch import _library, _pyramid

    version = tuple(map(int, torch.__version__.split(".")[:2]))
    if version < (2, 10):
        assert _library.MISSING is not None
    else:
        assert _library.MISSING is None
        for table in (_library.OPERATORS, _pyramid.OPERATORS):
            for operator in table.values():
                said = torch._C._dispatch_dump(f"roidl::{operator.name}")
                assert "CPU: registered at roidl:1" in said
                assert ("CUDA: registered at roidl:1" in said) == bool(torch.version.cuda)


# In the place of libtorch_cuda.so, which is not there without CUDA.
STAND_IN = """
int asked;
int aoti_torch_get_current_cuda_stream(int device_index, void** stream) { ++asked; return 0; }
"""


@pytest.mark.skipif(shutil.which("cc") is None, reason="there is no C compiler")
def test_the_kernels_serve_cuda_where_pytorch_does(tmp_path: Path) -> None:
    source, library = tmp_path / "cuda.c", tmp_path / "libtorch_cuda.so"
    source.write_text(STAND_IN)
    subprocess.run(["cc", "-shared", "-fPIC", source, "-o", library], check=True)
    code = f"""
import ctypes, torch
from roidl._bridge import bridge
register = ctypes.CDLL(bridge("torch")).roidl_torch_register
register.restype = ctypes.c_char_p
libtorch = {str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so")!r}.encode()
loaded = ctypes.CDLL({str(library)!r})
print(register(libtorch, {str(library)!r}.encode()))
has = torch._C._dispatch_has_kernel_for_dispatch_key
for op in ("roi_align", "roi_pool_jvp", "multiscale_roi_align", "assign_levels"):
    print(has("roidl::" + op, "CPU"), has("roidl::" + op, "CUDA"), has("roidl::" + op, "XPU"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == ["None", *["True True False"] * 4, ""]
