"""Compiles cuda/ and the machine with g++ into the library that roidl loads as its CUDA kernels."""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from roidl import _core

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
KERNELS = tuple(path.name for path in sorted((ROOT / "cuda").glob("*.cu")))
COMMON = ("-std=c++17", "-fPIC", "-fvisibility=hidden", "-g1")
# Contraction to FMA is off as nvcc's is: sums ask for it by name. (Unknown pragmas are nvcc's.)
KERNEL_FLAGS = (
    *("-O1", "-ffp-contract=off", "-mfma", "-fsanitize=thread"),
    *("--param", "tsan-instrument-func-entry-exit=0"),
    "-fsanitize=alignment,shift,signed-integer-overflow,integer-divide-by-zero,bounds,"
    "float-cast-overflow",
    '-DROIDL_CUDA_ARCHITECTURES="host"',
    *("-include", str(HERE / "runtime" / "intrinsics.h")),
)
MACHINE_FLAGS = ("-O2", "-Wall", "-Wextra", "-Werror")
# Calls that no sanitizer announces go by the machine.
COPIES = ("memcpy", "memmove", "memset")


def is_possible() -> bool:
    """Whether this machine has what the build needs: x86-64, g++ and binutils."""
    return all(map(shutil.which, ("g++", "objcopy"))) and _architecture() == "x86_64"


def _architecture() -> str:
    import platform

    return platform.machine()


def _run(command: Iterable[str | Path]) -> None:
    words = [str(word) for word in command]
    done = subprocess.run(words, capture_output=True, text=True)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(words)}\n{done.stderr}")


def _unfinished(target: Path) -> Path:
    """Where this process makes a file that others may be making, too; then it is renamed."""
    return target.with_name(f"{target.stem}.{os.getpid()}{target.suffix}")


def _digest(folders: Iterable[Path], flags: Iterable[str]) -> str:
    """Of all that objects of these folders have in common: headers and flags."""
    digest = hashlib.sha256("\n".join(flags).encode())
    for folder in folders:
        for path in sorted(folder.rglob("*")):
            if path.suffix in (".h", ".cuh"):
                digest.update(path.read_bytes())
    return digest.hexdigest()


def compile_kernels(source: Path, target: Path, flags: Sequence[str] = ()) -> None:
    """Compile one file of cuda/; its headers lie beside it and in src/ beside that."""
    include = ("-I", HERE / "runtime", "-I", source.parents[1] / "src")
    command: tuple[str | Path, ...] = ("g++", *COMMON, *KERNEL_FLAGS, *flags, *include, "-x", "c++")
    _run((*command, "-c", source, "-o", target))
    redefined = [f"--redefine-sym={name}=machine_{name}" for name in COPIES]
    _run(("objcopy", *redefined, target))


def _compile_machine(source: Path, target: Path) -> None:
    _run(("g++", *COMMON, *MACHINE_FLAGS, "-I", HERE / "runtime", "-c", source, "-o", target))


def link(objects: Iterable[Path], target: Path) -> None:
    """Link a library with these objects; of what two of them have, the first one's is taken."""
    libroidl = Path(_core.__file__).parent
    where = ("-L", libroidl, "-lroidl", f"-Wl,-rpath,{libroidl}")
    _run(("g++", "-shared", "-o", _unfinished(target), *objects, *where, "-ldl"))
    _unfinished(target).rename(target)


def objects(
    out: Path, root: Path = ROOT, jobs: int = 2, flags: Sequence[str] = ()
) -> dict[str, Path]:
    """Compile what has changed; the objects by the names of their sources."""
    out.mkdir(parents=True, exist_ok=True)
    runtime, machine = HERE / "runtime", HERE / "machine"
    compile_ours = functools.partial(compile_kernels, flags=flags)
    common = {
        compile_ours: _digest((root / "cuda", root / "src", runtime), (*KERNEL_FLAGS, *flags)),
        _compile_machine: _digest((machine, runtime), MACHINE_FLAGS),
    }
    work: dict[Path, Callable[[Path, Path], None]] = {
        root / "cuda" / name: compile_ours for name in KERNELS
    }
    work |= dict.fromkeys(sorted(machine.glob("*.cpp")), _compile_machine)
    made: dict[str, Path] = {}

    def make(source: Path) -> None:
        content = common[work[source]].encode() + source.read_bytes()
        name = f"{source.stem}-{hashlib.sha256(content).hexdigest()[:16]}.o"
        target = made[source.name] = out / name
        if not target.is_file():
            work[source](source, _unfinished(target))
            _unfinished(target).rename(target)

    with ThreadPoolExecutor(jobs) as pool:
        list(pool.map(make, work))
    return made


def build(out: Path, root: Path = ROOT, flags: Sequence[str] = ()) -> Path:
    """Build the library of the sources under `root` in the folder `out`; return its path.

    `flags` are for the kernels beside KERNEL_FLAGS.
    """
    library = out.resolve() / "libroidl_cuda_on_host.so"
    link(objects(out.resolve(), root, flags=flags).values(), library)
    return library


def environment(library: Path) -> dict[str, str]:
    """What makes roidl use the library, and `import cupy` find the machine's arrays."""
    return {"ROIDL_CUDA_LIBRARY": str(library), "PYTHONPATH": str(HERE / "stand_ins")}
