"""Describes the machine, its settings, the commit, and the bandwidth of the memory."""

from __future__ import annotations

import datetime
import os
import platform
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

COPY_BYTES = 2**28  # beyond the caches of most machines
COPIES = 7
SOURCES = ("src", "cuda", "python")  # the commit is marked as modified if these are


def _read(path: str) -> str | None:
    file = Path(path)
    return file.read_text().strip() if file.exists() else None


def _cpu_model() -> str:
    for line in (_read("/proc/cpuinfo") or "").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _instruction_sets() -> list[str]:
    flags = next(
        (
            line.split()
            for line in (_read("/proc/cpuinfo") or "").splitlines()
            if line.startswith(("flags", "Features"))
        ),
        [],
    )
    return [name for name in ("avx2", "fma", "avx512f", "asimd", "sve") if name in flags]


def _caches() -> dict[str, str]:
    found = {}
    for index in sorted(Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind = (index / "type").read_text().strip()
        if kind != "Instruction":
            found[f"L{(index / 'level').read_text().strip()}"] = (
                (index / "size").read_text().strip()
            )
    return found


def _huge_pages() -> dict[str, str]:
    """The selected settings of transparent huge pages in /sys."""
    found = {}
    for name in ("enabled", "defrag", "shmem_enabled"):
        text = _read(f"/sys/kernel/mm/transparent_hugepage/{name}")
        if text is not None:
            found[name] = text.partition("[")[2].partition("]")[0]
    return found


def _commit(root: Path) -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = git("status", "--porcelain", "--untracked-files=no", "--", *SOURCES)
        return git("rev-parse", "HEAD") + (" and uncommitted changes" if changed else "")
    except (OSError, subprocess.CalledProcessError):
        return None  # an unpacked archive


def describe(root: Path) -> dict[str, Any]:
    """The machine, its settings and the commit, as JSON data; `root` is the clone."""
    return {
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "commit": _commit(root),
        "cpu": _cpu_model(),
        "instruction_sets": _instruction_sets(),
        "cpus": len(os.sched_getaffinity(0)),
        "caches": _caches(),
        "memory_bytes": os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"),
        "transparent_huge_pages": _huge_pages(),
        "load_average_before": os.getloadavg()[0],
        "system": f"{platform.system()} {platform.release()}",
        "libc": " ".join(platform.libc_ver()),
        "python": platform.python_version(),
    }


def copy_bandwidth(threads: int) -> float:
    """Bytes per second, read and written, of a NumPy copy into mapped memory."""
    source = np.ones(COPY_BYTES // 4, np.float32)
    target = np.zeros_like(source)
    target[:] = 1  # maps the memory
    pairs = list(zip(np.array_split(target, threads), np.array_split(source, threads), strict=True))
    times = []
    with ThreadPoolExecutor(threads) as pool:
        for _ in range(COPIES):
            start = time.perf_counter()
            list(pool.map(lambda pair: np.copyto(*pair), pairs))
            times.append(time.perf_counter() - start)
    return 2 * source.nbytes / min(times)
