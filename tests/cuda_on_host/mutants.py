"""Faults for the machine to find: a change of a line of cuda/ each, and tests that must fail."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import NamedTuple

from .build import ROOT, compile_kernels, link


class Mutant(NamedTuple):
    """One change, in the kernels of one file that is compiled anew."""

    name: str
    header: str
    old: str
    new: str
    tests: str  # of the file, as -k has it
    said: str  # by the machine, or by the test
    races: int = 1  # whether they are looked for: some would be found first
    source: str = "roi_align.cu"
    file: str = "test_cuda.py"


GRADIENT = "test_few_channels_of_many_rois and roi_align-avg and 9"
CHANNELS_LAST = "test_channels_last and roi_align-avg"
MUTANTS = (
    Mutant(
        "no barrier of the warp",
        "block.cuh",
        "visit(i);\n    sync_warp();",
        "visit(i);",
        GRADIENT,
        "race within a warp|nobody wrote",
    ),
    Mutant(
        "copies not waited for",
        "chunks.cuh",
        "    wait_for_copies();\n",
        "",
        GRADIENT,
        "a copy that is not waited for",
    ),
    Mutant(
        "copies waited for without a barrier",
        "chunks.cuh",
        "    wait_for_copies();\n    block.sync();\n",
        "    wait_for_copies();\n",
        GRADIENT,
        "race between warps|a copy that is not waited for|nobody wrote",
    ),
    Mutant(
        "no barrier after the sums",
        "gather.cuh",
        "      block.sync();\n      for (chunk",
        "      for (chunk",
        GRADIENT,
        "race within a warp|race between warps",
    ),
    Mutant(
        "a barrier that one thread does not reach",
        "gather.cuh",
        "      block.sync();\n      for (chunk",
        "      if (thread_index() != 5) block.sync();\n      for (chunk",
        GRADIENT,
        "different barriers|ends while others wait",
        races=0,
    ),
    Mutant(
        "a tile without its padding",
        "gather.cuh",
        "bytes_of<A>(kStored * kStoredStride)",
        "bytes_of<A>(kStored * Patch::kTileCells)",
        GRADIENT,
        "out of bounds",
    ),
    Mutant(
        "a window too narrow",
        "rois.cuh",
        "(high > C(0) ? high : C(0)) + 2 : size",
        "(high > C(0) ? high : C(0)) + 1 : size",
        GRADIENT,
        "race within a warp|nobody wrote|Not equal to tolerance",
    ),
    Mutant(
        "vectors that are not aligned",
        "elements.cuh",
        "  if (reinterpret_cast<uintptr_t>(data) % (count * item_bytes) != 0) return false;\n",
        "  static_cast<void>(data), static_cast<void>(item_bytes);\n",
        CHANNELS_LAST,
        "not aligned",
    ),
    Mutant(
        "a store one cell too far",
        "gather.cuh",
        "x + across < columns) narrow",
        "x + across <= columns) narrow",
        CHANNELS_LAST,
        "out of bounds|race between blocks",
    ),
    Mutant(
        "a context is made on the device that was the current one",
        "device_guard.cuh",
        "contexts_->set_current(context_);",
        "cudaSetDevice(0);",
        "contexts",
        "AssertionError",
        file="test_scratch.py",
    ),
    Mutant(
        "kernels are loaded as captures forbid it",
        "device_guard.cuh",
        "mode_ = cudaStreamCaptureModeRelaxed;",
        "mode_ = cudaStreamCaptureModeGlobal;",
        "capture",
        "a kernel is loaded while a stream is captured",
        file="test_scratch.py",
    ),
    Mutant(
        "a product is fused with the sum",
        "max_sample.cuh",
        "return term(A(x.weight_low), [&] { return between_rows(x.low); }) +\n"
        "           term(A(x.weight_high), [&] { return between_rows(x.high); });",
        "return fused(A(x.weight_low), between_rows(x.low),\n"
        "           term(A(x.weight_high), [&] { return between_rows(x.high); }));",
        "near_ties",
        "Arrays are not equal|too far off",
        source="roi_align_max.cu",
        file="test_winners.py",
    ),
)


def patched(mutant: Mutant) -> str:
    """The header with the fault in it."""
    text = (ROOT / "cuda" / mutant.header).read_text()
    assert text.count(mutant.old) == 1, f"{mutant.name}: {mutant.header} is not what it was"
    return text.replace(mutant.old, mutant.new)


def build_mutant(mutant: Mutant, sound: dict[str, Path], out: Path) -> Path:
    """Build the library with one file of kernels that has the fault."""
    for folder in ("cuda", "src"):
        shutil.copytree(ROOT / folder, out / folder)
    (out / "cuda" / mutant.header).write_text(patched(mutant))
    made = out / "mutant.o"
    compile_kernels(out / "cuda" / mutant.source, made)
    library = out / "mutant.so"
    # First: other files have the same templates, without the fault.
    link([made, *(path for name, path in sound.items() if name != mutant.source)], library)
    return library
