"""Stand-ins for libraries that need a GPU: compiled from tests/cpp, run in another process."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
BYTES_OF_A_BOX = 1008  # workspace that the operators of device_library.cpp request


def compiled(name: str, folder: Path, called: str | None = None) -> str:
    """tests/cpp/<name>.cpp as a shared library, which the linker knows as `called`."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    library = str(folder / (called or f"{name}.so"))
    flags = ["-shared", "-fPIC", "-std=c++17", "-Wall", "-Wextra", "-Werror"]
    flags += [f"-Wl,-soname,{called}"] if called else []
    source = str(HERE / "cpp" / f"{name}.cpp")
    command = [compiler, *flags, f"-I{HERE.parent / 'src'}", source, "-o", library]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return library


def lines_of(library: str, script: str, *arguments: str) -> list[Any]:
    """The JSON lines of a script for whose CUDA arrays `library` computes."""
    environment = {
        **os.environ,
        "ROIDL_CUDA_LIBRARY": library,
        "JAX_PLATFORMS": "cpu",
        "PYTHONPATH": str(HERE),
    }
    command = [sys.executable, str(HERE / script), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=120)
    assert done.returncode == 0, done.stderr
    return list(map(json.loads, done.stdout.splitlines()))
