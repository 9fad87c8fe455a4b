"""Results as Markdown: every row, the page in docs/, and the block of the README."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from .case import ITEM_BYTES, OPERATIONS
from .workloads import ALL, WORKLOADS, result_bytes

Row = dict[str, Any]
Results = dict[str, Any]

BEGIN, END = "<!-- benchmark:begin -->", "<!-- benchmark:end -->"
# A larger error is not rounding: the engine uses another definition.
DIFFERS = {"float32": 1e-4, "bfloat16": 2e-2, "float16": 2e-3}
BASELINES = ("torchvision", "onnxruntime")  # the first that is there
GPU_ENGINE, GPU_PEER = "roidl-torch", "torchvision"
# For each operation of the README and the plot, roidl's engine that computes the same results.
HEADLINES = {
    "roi_align": "roidl-numpy",
    "roi_align_backward": "roidl-numpy",
    "roi_pool": "roidl-numpy-argmax",
}
READING = (
    "Minimum of interleaved calls, each with a new result, roidl's in recycled memory (without "
    "that: `roidl-numpy-fresh` in docs/performance.md); in brackets, how many times faster. "
    "RoIPool with the argmax. Error: largest difference from float64 divided by the largest value."
)
MEMORY_WORKLOADS = ("W1", "W2", "W3", "W4", "W7", "W8")  # the others need hardly any
README_WORKLOADS = ("W1", "W2", "W3", "W4", "W5")


def milliseconds(seconds: float) -> str:
    """Milliseconds with three significant digits."""
    value = seconds * 1e3
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}" if value >= 0.1 else f"{value:.4f}"


def times(baseline: Row, row: Row) -> str:
    """How many times faster than the baseline a row is, with two digits."""
    ratio: float = baseline["min"] / row["min"]
    return f"{ratio:.1f}x" if ratio < 10 else f"{ratio:.0f}x"


def table(header: Sequence[str], rows: Iterable[Sequence[str]], text_columns: int) -> str:
    """A Markdown table; columns of figures are aligned right."""
    rule = ["---"] * text_columns + ["---:"] * (len(header) - text_columns)
    return "\n".join("| " + " | ".join(row) + " |" for row in (header, rule, *rows))


def differs(row: Row) -> bool:
    """Whether the engine uses another definition, which is marked `~`."""
    return bool(row["error"] > DIFFERS[row["dtype"]])


def _time(row: Row) -> str:
    return milliseconds(row["min"]) + "~" * differs(row)


def timed(results: Results, **where: Any) -> list[Row]:
    """The rows that have times and these values."""
    return [
        row
        for row in results["rows"]
        if "min" in row and all(row[name] == value for name, value in where.items())
    ]


def baseline(results: Results) -> str | None:
    """The engine that others are compared with, if the results have one."""
    names = {row["engine"] for row in timed(results)}
    return next((name for name in BASELINES if name in names), None)


def headline(results: Results, engine: str, operation: str, workload: str) -> Row | None:
    """The row of README and plot: one thread, float32, NCHW if the engine supports it."""
    where = {"engine": engine, "operation": operation, "workload": workload}
    rows = timed(results, **where, threads=1, dtype="float32")
    return min(rows, key=lambda row: str(row["layout"]), default=None)


def machine(results: Results) -> str:
    """The description of machine, versions and commit, as one paragraph."""
    found = results["machine"]
    caches = ", ".join(f"{name} {size}" for name, size in found["caches"].items())
    pages = found["transparent_huge_pages"].get("enabled", "not there")
    bandwidth = ", ".join(
        f"{speed / 1e9:.1f} GB/s on {count} thread{'s' * (count != '1')}"
        for count, speed in results["bandwidth"].items()
    )
    copy = f"a NumPy copy reads and writes {bandwidth}"
    if results["device"] != "cpu":
        memory, cache = results["bandwidth"]["1"] / 1e9, results["cache_bandwidth"] / 1e9
        copy = f"a copy on the device moves {memory:.0f} GB/s, one within its cache {cache:.0f}"
    versions = {
        f"{name} {number}"
        for engine in results["engines"].values()
        for name, number in engine["versions"].items()
    }
    commit = found["commit"] or "unknown commit"
    return (
        f"{found['cpu']}, {found['cpus']} CPUs, caches {caches}; "
        f"{', '.join(found['instruction_sets'])}; {found['system']}, {found['libc']}; "
        f"transparent huge pages: {pages}; {copy}. "
        f"{', '.join(sorted(versions))}. {found['date'][:10]}, {commit[:10]}{commit[40:]}."
    )


def notes(results: Results) -> str:
    """Notes about engines, engines that were left out, and failures."""
    lines = [
        f"- {name}: {engine['note']}."
        for name, engine in results["engines"].items()
        if engine["note"]
    ]
    lines += [f"- {name} did not run: {why}." for name, why in results["left_out"].items()]
    failures = {(row["engine"], row["failure"]) for row in results["rows"] if "failure" in row}
    lines += [f"- {name} failed: {why}." for name, why in sorted(failures)]
    failures = {
        (row["engine"], row["graph_failure"]) for row in results["rows"] if "graph_failure" in row
    }
    lines += [f"- {name} failed in a graph: {why}." for name, why in sorted(failures)]
    return "\n".join(lines)


def _order(row: Row) -> tuple[Any, ...]:
    dtype = list(ITEM_BYTES).index(row["dtype"])
    return row["workload"], row["threads"], dtype, row["layout"], row["engine"]


def _floor(results: Results, row: Row) -> float:
    """The time that a copy of the bytes takes: a lower bound."""
    return float(row["bytes"] / results["bandwidth"][str(row["threads"])])


def _device_times(results: Results, row: Row) -> list[str]:
    """A call's time on the device, its number of kernels, and the lower bound."""
    graph = [milliseconds(row["graph"]), f"{row['kernels']:g}"] if "graph" in row else ["", ""]
    return [*graph, milliseconds(_floor(results, row))]


def _against(results: Results) -> str:
    """On a GPU: roidl's times, the peer's and the lower bound; "" without rows of the device."""
    same = ("operation", "workload", "layout", "dtype", "threads")
    peers = {tuple(row[k] for k in same): row for row in timed(results, engine=GPU_PEER)}
    cells = []
    ours = sorted(timed(results, engine=GPU_ENGINE), key=_order)
    for row in sorted(ours, key=lambda row: list(OPERATIONS).index(row["operation"])):
        peer, floor = peers.get(tuple(row[k] for k in same)), _floor(results, row)
        line = [OPERATIONS[row["operation"]].title, *(row[k] for k in same[1:4])]
        for name in ("graph", "min"):
            both = [side for side in (peer, row) if side is not None and name in side]
            line += [f"{side[name] * 1e6:.1f}" if side in both else "" for side in (peer, row)]
            line.append(f"{both[0][name] / row[name]:.1f}x" if len(both) == 2 else "")
        line.append(f"{floor * 1e6:.1f}")
        line.append(f"{row['graph'] / floor:.1f}" if "graph" in row else "")
        line += [f"{side['error']:.0e}" if side is not None else "" for side in (peer, row)]
        cells.append(line)
    header = ["operation", "workload", "layout", "dtype", "device: torchvision µs", "roidl µs", ""]
    header += ["call: torchvision µs", "roidl µs", "", "floor µs", "roidl, device ÷ floor"]
    header += ["torchvision's error", "roidl's"]
    return f"## Beside torchvision\n\n{table(header, cells, 4)}" if cells else ""


def _loaded(results: Results) -> str:
    """The times on a loaded machine; empty if none were measured."""
    cells = []
    for row in timed(results):
        if "loaded" not in row:
            continue
        line = [OPERATIONS[row["operation"]].title]
        line += [str(row[name]) for name in ("workload", "engine", "layout", "dtype", "threads")]
        for name in ("min", "median"):
            quiet, loaded = row[name], row["loaded"][name]
            line += [milliseconds(quiet), milliseconds(loaded), f"{loaded / quiet:.1f}x"]
        cells.append(line)
    if not cells:
        return ""
    header = ["operation", "workload", "engine", "layout", "dtype", "threads"]
    header += ["min ms", "loaded", "", "median ms", "loaded", ""]
    return f"## As many busy processes as CPUs\n\n{table(header, cells, 6)}"


def full(results: Results) -> str:
    """Every row of the run."""
    memory = "peak RSS MB" if results["device"] == "cpu" else "peak device MB"
    header = ["workload", "engine", "layout", "dtype", "threads", "min ms", "median ms", "timings"]
    header += ["error", "MB to move", "of bandwidth", memory]
    on_gpu = results["device"] != "cpu"
    if on_gpu:
        header[7:7] = ["in a graph ms", "kernels", "floor ms"]
    parts = [f"# Benchmark results\n\n{machine(results)}\n\n{notes(results)}"]
    for operation, described in OPERATIONS.items():
        rows = timed(results, operation=operation)
        rows.sort(key=_order)
        cells = [
            [
                row["workload"],
                row["engine"],
                row["layout"],
                row["dtype"],
                str(row["threads"]),
                _time(row),
                milliseconds(row["median"]),
                *(_device_times(results, row) if on_gpu else []),
                str(row["timings"]),
                f"{row['error']:.0e}",
                f"{row['bytes'] / 1e6:.3g}",
                f"{row['share']:.1%}",
                f"{row['peak_bytes'] / 1e6:.3g}",
            ]
            for row in rows
        ]
        if cells:
            parts.append(f"## {described.title}\n\n{table(header, cells, 5)}")
    parts += [_loaded(results), _against(results) if on_gpu else ""]
    return "\n\n".join(part for part in parts if part) + "\n"


def _workloads(rows: list[Row]) -> list[str]:
    there = {row["workload"] for row in rows}
    return [name for name in ALL if name in there]


def _wide(results: Results, operation: str) -> str:
    """A table with a row for each engine, layout, dtype and threads, and a column per workload."""
    rows = timed(results, operation=operation)
    names = _workloads(rows)
    lines: dict[tuple[str, ...], dict[str, Row]] = {}
    for row in rows:
        key = (row["engine"], row["layout"], row["dtype"], str(row["threads"]))
        lines.setdefault(key, {})[row["workload"]] = row
    cells = [
        [*key]
        + [_time(line[name]) if name in line else "" for name in names]
        + [f"{max(row['error'] for row in line.values()):.0e}"]
        for key, line in lines.items()
    ]
    header = ["engine", "layout", "dtype", "threads", *names, "largest error"]
    return table(header, cells, 4)


def _bound(results: Results, engine: str) -> str:
    """Bytes, fraction of the bandwidth and memory of one engine."""
    rows = timed(results, engine=engine, dtype="float32", layout="NCHW")
    cells = [
        [
            OPERATIONS[row["operation"]].title,
            row["workload"],
            str(row["threads"]),
            milliseconds(row["min"]),
            f"{row['bytes'] / 1e6:.3g}",
            f"{row['share']:.0%}",
            f"{row['peak_bytes'] / 1e6:.3g}",
        ]
        for row in rows
    ]
    header = ["operation", "workload", "threads", "min ms", "MB to move", "of bandwidth"]
    return table([*header, "peak RSS MB"], cells, 2)


def _memory(results: Results) -> str:
    """Peak memory of the baseline and of roidl's engines, and the size of the result."""
    rows = timed(results, dtype="float32", layout="NCHW")
    chosen: dict[tuple[str, str, int], dict[str, Row]] = {}
    for row in rows:
        key = row["operation"], row["workload"], row["threads"]
        chosen.setdefault(key, {})[row["engine"]] = row
    there = {row["engine"] for row in rows}
    names = [name for name in results["engines"] if name in there]
    names = [name for name in names if name in BASELINES or name.startswith("roidl-")]
    cells = [
        [OPERATIONS[operation].title, workload, str(threads)]
        + [f"{result_bytes(WORKLOADS[workload], operation) / 1e6:.3g}"]
        + [f"{line[name]['peak_bytes'] / 1e6:.3g}" if name in line else "" for name in names]
        for (operation, workload, threads), line in chosen.items()
        if workload in MEMORY_WORKLOADS
    ]
    return table(["operation", "workload", "threads", "result", *names], cells, 3)


def page_block(results: Results, picture: str) -> str:
    """The block of docs/performance.md."""
    parts = [f"![Speed-up over the baseline, one thread]({picture})", machine(results)]
    parts.append(notes(results))
    for operation, described in OPERATIONS.items():
        if timed(results, operation=operation):
            parts.append(f"### {described.title}: minimum, ms\n\n{_wide(results, operation)}")
    parts.append(
        f"### What limits us: roidl-numpy, NCHW, float32\n\n{_bound(results, 'roidl-numpy')}"
    )
    parts.append(f"### Peak memory: MB, NCHW, float32\n\n{_memory(results)}")
    parts.append(_loaded(results).replace("## ", "### ", 1))
    return "\n\n".join(part for part in parts if part)


def readme_block(results: Results, picture: str) -> str:
    """The block of README.md: the baseline and roidl, one thread."""
    peer = baseline(results)
    if peer is None:
        raise SystemExit(f"the results have none of {', '.join(BASELINES)} to compare with")
    names = _workloads([row for row in timed(results) if row["workload"] in README_WORKLOADS])
    cells = []
    for operation, ours in HEADLINES.items():
        for engine in (peer, ours):
            line, errors = [OPERATIONS[operation].title, engine.partition("-")[0]], []
            for name in names:
                row = headline(results, engine, operation, name)
                other = headline(results, peer, operation, name)
                if row is None:
                    line.append("")
                    continue
                errors.append(row["error"])
                if engine == peer or other is None:
                    line.append(_time(row))
                else:
                    line.append(f"**{_time(row)}** ({times(other, row)})")
            if errors:
                cells.append([*line, f"{max(errors):.0e}"])
    header = ["ms, 1 thread, float32", ""]
    header += [f"{name} {WORKLOADS[name].title}" for name in names]
    return "\n\n".join(
        [
            table([*header, "largest error"], cells, 2),
            f"![Speed-up over {peer}, one thread]({picture})",
            f"<sub>{READING} {machine(results)}</sub>",
        ]
    )


def fill(file: Path, block: str) -> None:
    """Put the block between the file's markers.

    Raises
    ------
    SystemExit
        If the file has no markers.
    """
    text = file.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise SystemExit(f"{file} lacks the lines {BEGIN} and {END}")
    file.write_text(f"{before}{BEGIN}\n{block}\n{END}{after}")
