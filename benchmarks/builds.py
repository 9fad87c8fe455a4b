"""Builds libraries of the CUDA kernels with one constant of cuda/tuning.h changed."""

from __future__ import annotations

import hashlib
import json
import re
import shlex
import subprocess
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

from roidl._command_line import CommandError, read_json

from .process import ROOT

PREFIX = "ROIDL_TUNE_"
TUNING = ROOT / "cuda/tuning.h"
LIBRARY, OBJECTS = "libroidl_cuda.so", "roidl_cuda.dir/"  # of the target in CMakeLists.txt
MANIFEST = "variants.json"  # beside the libraries


class Variant(NamedTuple):
    """A constant and its value; both are empty for the default."""

    constant: str = ""  # without the prefix
    value: str = ""

    @property
    def name(self) -> str:
        return f"{self.constant}={self.value}" if self.constant else "default"

    @property
    def file(self) -> str:
        return self.name.replace("=", "-")


class Line(NamedTuple):
    """A command of CMake's build."""

    command: str
    output: str  # as it is written in the command
    file: Path


class BuildError(Exception):
    """The message of a failed compiler, in one line."""


def defaults() -> dict[str, str]:
    """The constants of cuda/tuning.h, without their prefix."""
    return dict(re.findall(rf"^#define {PREFIX}(\w+) (\S+)", TUNING.read_text(), re.MULTILINE))


def sources() -> str:
    """A hash of the sources of the kernels."""
    files = [path for folder in ("cuda", "src") for path in sorted((ROOT / folder).rglob("*.*"))]
    return hashlib.sha256(b"\0".join(path.read_bytes() for path in files)).hexdigest()[:12]


def cmake_tree() -> Path:
    """CMake's build folder of the latest installation."""
    found = sorted(ROOT.glob("build/*/build.ninja"), key=lambda path: path.stat().st_mtime)
    if not found:
        raise CommandError("there is no build/*/build.ninja: see docs/notes/cuda_measuring.md")
    return found[-1].parent


def compile_lines(tree: Path) -> tuple[list[Line], Line]:
    """The commands that compile the objects of the library, and the one that links them."""
    command = ["ninja", "-C", str(tree), "-t", "compdb"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode != 0:
        raise CommandError(f"{' '.join(command)} failed: {(done.stdout + done.stderr).strip()}")
    said = done.stdout
    entries = json.loads(said[said.index("[") :])
    lines = [Line(entry["command"], entry["output"], tree / entry["file"]) for entry in entries]
    objects = [line for line in lines if OBJECTS in line.output and line.command]
    if not objects:
        raise CommandError(f"{tree} builds no CUDA kernels: install with ROIDL_CUDA=ON")
    return objects, next(line for line in lines if line.output == LIBRARY)


def _mentions(file: Path, name: str, seen: set[Path]) -> bool:
    """Whether a source, or a header that it includes, uses the constant."""
    seen.add(file)
    text = file.read_text()
    if re.search(rf"\b{name}\b", re.sub(rf"#(ifndef|define) {name}\b.*", "", text)):
        return True
    beside = [
        folder / path
        for path in re.findall(r'^#include "(.+)"', text, re.MULTILINE)
        for folder in (file.parent, ROOT / "src")
    ]
    included = {path.resolve() for path in beside if path.exists()} - seen
    return any(_mentions(path, name, seen) for path in sorted(included))


def depends(file: Path, variant: Variant) -> bool:
    """Whether the variant's object of this source differs from the default's."""
    return bool(variant.constant) and _mentions(file, PREFIX + variant.constant, set())


def _shell(command: str, tree: Path) -> str:
    done = subprocess.run(command, shell=True, cwd=tree, capture_output=True, text=True)
    said = done.stdout + done.stderr
    if done.returncode != 0:
        wrong = [line for line in said.splitlines() if "error" in line]
        raise BuildError((wrong or said.splitlines() or ["no words"])[0].strip())
    return said


def compile_object(line: Line, tree: Path, objects: Path, variant: Variant) -> str:
    """Compile the object unless it exists; return the compiler's output."""
    target = _object(line, objects, variant)
    words = target.with_suffix(".txt")
    if not words.exists():
        target.parent.mkdir(parents=True, exist_ok=True)
        command = line.command.replace(line.output, shlex.quote(str(target)))
        if variant.constant:
            command += f" -D{PREFIX}{variant.constant}={variant.value}"
        if line.file.suffix == ".cu":
            command += " -Xptxas=-v"
        words.write_text(_shell(command, tree))  # last: it marks the object as complete
    return words.read_text()


def _object(line: Line, objects: Path, variant: Variant) -> Path:
    return objects / variant.file / f"{line.file.name}.o"


def kernels(said: str) -> dict[str, list[int]]:
    """Registers and bytes of stack and spills of the float32 kernels, by mangled name."""
    pattern = (
        r"entry function '(\w+)'.*\n.*\n +(\d+) bytes stack frame, (\d+) bytes spill stores, "
        r"(\d+) bytes spill loads\n.*Used (\d+) registers"
    )
    return {
        name: [int(registers), sum(map(int, memory))]
        for name, *memory, registers in re.findall(pattern, said)
        # float (f) is a template argument, and double (d) is not.
        if "If" in name and not re.search("Id|dE", name)
    }


def build(variants: Iterable[Variant], folder: Path, jobs: int) -> dict[str, Any]:
    """Build the default's library and one for each variant; return the manifest of `folder`."""
    tree = cmake_tree()
    # The variants are linked to it; the kernels' own targets are not rebuilt.
    try:
        _shell(f"ninja -j {jobs} libroidl.so", tree)
    except BuildError as error:
        raise CommandError(f"libroidl.so cannot be built: {error}") from None
    lines, link = compile_lines(tree)
    state = hashlib.sha256("".join([sources(), *(line.command for line in lines)]).encode())
    objects = tree / "variants" / state.hexdigest()[:12]
    default = Variant()
    everyone = [default, *variants]
    made: dict[str, Any] = {}
    with ThreadPoolExecutor(jobs) as pool:
        work = {
            variant: {
                line: pool.submit(compile_object, line, tree, objects, variant)
                for line in lines
                if variant == default or depends(line.file, variant)
            }
            for variant in everyone
        }
        for variant, parts in work.items():
            library = folder / f"{variant.file}.so"
            about = made[variant.name] = {**variant._asdict(), "files": len(parts)}
            try:
                about["kernels"] = kernels("".join(part.result() for part in parts.values()))
                command = link.command.replace(f"-o {LIBRARY}", f"-o {library.resolve()}")
                for line in lines:
                    made_by = variant if line in parts else default
                    path = shlex.quote(str(_object(line, objects, made_by)))
                    command = command.replace(line.output, path)
                _shell(command, tree)
                about["library"] = library.name
            except BuildError as error:
                about["failure"] = str(error)
    manifest = {"sources": sources(), "variants": made}
    (folder / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return manifest


def read(folder: Path) -> dict[str, Any]:
    """The manifest that an earlier `build` wrote to `folder`."""
    file = folder / MANIFEST
    if not file.exists():
        raise CommandError(f"--no-build: there is no {file}")
    manifest: dict[str, Any] = read_json(file)
    if not isinstance(manifest, dict) or manifest.get("sources") != sources():
        raise CommandError(f"--no-build: {folder} was built from other sources than src/ and cuda/")
    return manifest
