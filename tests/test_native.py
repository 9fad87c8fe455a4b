"""The core without Python: tests/cpp/operators.cpp over the installed library."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from roidl import _core

HERE = Path(__file__).parent
LIBRARY = Path(_core.__file__).parent


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> str:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    path = str(tmp_path_factory.mktemp("native") / "operators")
    flags = ["-O1", "-std=c++17", "-Wall", "-Wextra", "-Werror", "-ffp-contract=off"]
    include = f"-I{HERE.parent / 'src'}"
    link = [f"-L{LIBRARY}", "-lroidl", f"-Wl,-rpath,{LIBRARY}"]
    command = [compiler, *flags, include, str(HERE / "cpp" / "operators.cpp"), *link, "-o", path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return path


@pytest.mark.each_instruction_set
def test_the_operators_without_python(program: str) -> None:
    done = subprocess.run([program], capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith(": 0 failures\n")
