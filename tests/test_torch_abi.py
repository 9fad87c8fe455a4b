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
    members = set(re.findall(r"(?:TorchError|int32_t) \(\*(\w+)\)", HEADER))
    asked = re.findall(r'visit\("(\w+)", \w+\.(\w+)\)', HEADER)
    assert {name for name, _ in asked} == members
    assert all(name == member for name, member in asked)
    assert all(hasattr(libtorch, name) for name in re.findall(r"TorchError \(\*(\w+)\)", cpu))


def test_the_kernels_are_native() -> None:
    from roidl.torch import _arguments, _library

    version = tuple(map(int, torch.__version__.split(".")[:2]))
    if version < (2, 10):
        assert _library.MISSING is not None
    else:
        assert _library.MISSING is None
        for name in (*_arguments.OPERATORS, "assign_levels"):
            said = torch._C._dispatch_dump(f"roidl::{name}")
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
    subprocess.run(
        ["cc", "-shared", "-fPIC", "-Wl,-soname,libtorch_cuda.so", source, "-o", library],
        check=True,
    )
    code = f"""
import ctypes, torch
from roidl._bridge import bridge
loaded = ctypes.CDLL({str(library)!r})
torch.ops.load_library(bridge("torch"))
has = torch._C._dispatch_has_kernel_for_dispatch_key
for op in ("roi_align", "roi_pool_jvp", "multiscale_roi_align", "assign_levels"):
    print(has("roidl::" + op, "CPU"), has("roidl::" + op, "CUDA"), has("roidl::" + op, "XPU"))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split("\n") == [*["True True False"] * 4, ""]


def test_the_library_defines_the_operators_by_itself() -> None:
    code = """
import sys, torch
from roidl._bridge import bridge
torch.ops.load_library(bridge("torch"))
torch.ops.load_library(bridge("torch"))  # again: nothing is defined twice
x, boxes = torch.ones(1, 1, 8, 8), torch.tensor([[0.0, 0, 4, 4]])
print(torch.ops.roidl.roi_align(x, boxes, None, 1, 1, 1.0, 2, 2, False, 0, 0).item())
print([str(tag) for tag in torch.ops.roidl.multiscale_roi_pool.default.tags])
print("roidl.torch" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    version = tuple(map(int, torch.__version__.split(".")[:2]))
    tags = ["Tag.pt2_compliant_tag"] if version >= (2, 12) else []
    assert done.stdout.split("\n") == ["1.0", str(tags), "False", ""]


def test_the_schemas_have_the_order_of_the_arguments() -> None:
    from roidl.torch._arguments import OPERATORS

    for operator in OPERATORS.values():
        schema = getattr(torch.ops.roidl, operator.name).default._schema
        named = [(argument.name, "List" in str(argument.type)) for argument in schema.arguments]
        call = operator.unflat(tuple([name] if listed else name for name, listed in named))
        reads = [name for read in call.reads for name in (read if type(read) is tuple else [read])]
        assert reads == [read.name for read in operator.row.reads]
        said = [name for name in call[1:5] if name is not None]
        assert said == ["boxes", *operator.rows]
        optional = operator.values[len(reads) + 1 :]
        assert list(map(str, call.make)) == [f"make_{name}" for name in optional]
        fields = call.params._asdict()
        assert all(value == name for name, value in fields.items() if value != 1.0)
        flat = [*operator.flat(call)]
        assert [list(value) if type(value) is tuple else value for value in flat] == [
            [name] if listed else name for name, listed in named
        ]
