"""The benchmark end to end: a tiny run in processes of its own, its files, and what they say."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks are no part of the package

from benchmarks import load, report  # noqa: E402

KEY = ("workload", "operation", "layout", "dtype", "threads")


def benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=100)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JSON of a run over one engine and, to be left out, one without an interpreter."""
    file = tmp_path_factory.mktemp("benchmarks") / "run.json"
    engines = ["--engines", "roidl-numpy", "openvino"]
    size = ["--workloads", "W6", "--threads", "1", "--seconds", "0.001"]
    nowhere = f"openvino={file.parent / 'no-python'}"
    operations = ["--operations", "roi_align", "roi_align_backward", "roi_pool"]
    done = benchmarks(*engines, *size, *operations, "--python", nowhere, "--output", str(file))
    assert done.returncode == 0, done.stderr
    assert "[3/3] W6 RoIPool, forward, 1 thread: 6 rows" in done.stderr  # progress
    return file


def rows_of(output: Path) -> dict[tuple[Any, ...], dict[str, Any]]:
    rows = json.loads(output.read_text())["rows"]
    return {tuple(row[name] for name in KEY): row for row in rows}


def test_every_row_has_its_figures(output: Path) -> None:
    rows = rows_of(output)
    assert len(rows) == 3 * 2 * 3  # operations, layouts, dtypes
    for row in rows.values():
        assert 0 < row["min"] <= row["median"]
        assert row["timings"] >= 7
        half = 2**-8 if row["dtype"] == "bfloat16" else 2**-11
        assert row["error"] <= (1e-6 if row["dtype"] == "float32" else half)
    # One value is rounded: were the error column not of this result, it would be 0 or large.
    assert rows["W6", "roi_align", "NCHW", "bfloat16", 1]["error"] > 0


def test_bytes_and_share(output: Path) -> None:
    bandwidth = json.loads(output.read_text())["bandwidth"]["1"]
    row = rows_of(output)["W6", "roi_align", "NCHW", "float32", 1]
    assert row["bytes"] == 8 * 8 * 4 + 5 * 4 + 4  # map, box, result
    assert row["share"] == pytest.approx(row["bytes"] / row["min"] / bandwidth)


def test_records_the_machine_and_who_is_missing(output: Path) -> None:
    results = json.loads(output.read_text())
    assert {"cpu", "commit", "transparent_huge_pages", "date"} <= results["machine"].keys()
    assert {"roidl", "numpy", "python"} <= results["engines"]["roidl-numpy"]["versions"].keys()
    assert results["left_out"]["openvino"].startswith("no such interpreter: ")


def test_markdown_has_a_line_per_row(output: Path) -> None:
    lines = output.with_suffix(".md").read_text().splitlines()
    assert sum(line.startswith("| W6 | roidl-numpy |") for line in lines) == len(rows_of(output))
    assert any(line.startswith("- openvino did not run: no such interpreter") for line in lines)


def test_compare_shows_what_changed(output: Path, tmp_path: Path) -> None:
    results = json.loads(output.read_text())
    slow = results["rows"][0]
    slow["min"] *= 3
    changed = tmp_path / "changed.json"
    changed.write_text(json.dumps(results))
    done = benchmarks("--compare", str(output), str(changed))
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if "| 3.00 |" in line]
    assert slow["layout"] in line
    assert slow["dtype"] in line
    assert "17 of 18 rows within 5%" in done.stdout


@pytest.fixture(scope="module")
def frameworks(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Gradients of every adapter, on a busy machine too."""
    file = tmp_path_factory.mktemp("benchmarks") / "frameworks.json"
    engines = ["--engines", "roidl-torch", "roidl-jax", "roidl-tensorflow"]
    size = ["--workloads", "W6", "--threads", "1", "--seconds", "0.001", "--dtypes", "float32"]
    operations = ["--operations", "roi_align_backward", "roi_pool_backward"]
    done = benchmarks(*engines, *size, *operations, "--loaded", "--output", str(file))
    if "no engine can run" in done.stderr:
        pytest.skip("no framework is installed")
    assert done.returncode == 0, done.stderr
    results: dict[str, Any] = json.loads(file.read_text())
    results["markdown"] = file.with_suffix(".md").read_text()
    return results


def test_gradients_of_the_frameworks_are_right(frameworks: dict[str, Any]) -> None:
    found = {(row["engine"], row["operation"], row["layout"]) for row in frameworks["rows"]}
    assert len(found) == len(frameworks["rows"]) == 2 * 2 * len(frameworks["engines"])
    for row in frameworks["rows"]:
        assert row["error"] <= 1e-6, row
        assert row["min"] > 0


def test_a_busy_machine_is_another_row_of_times(frameworks: dict[str, Any]) -> None:
    for row in frameworks["rows"]:
        assert 0 < row["loaded"]["min"] <= row["loaded"]["median"]
        assert row["loaded"]["timings"] >= 7
    _, _, table = frameworks["markdown"].partition("## As many busy processes as CPUs")
    assert table.count("\n| RoI") == len(frameworks["rows"])


def test_every_cpu_has_a_busy_process_until_the_end() -> None:
    with load.busy() as processes:
        cpus = [os.sched_getaffinity(process.pid) for process in processes]
        assert sorted(map(list, cpus)) == [[cpu] for cpu in sorted(os.sched_getaffinity(0))]
        for process in processes:
            state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            assert state == "R"  # it waits for nothing but its turn
    assert None not in [process.poll() for process in processes]


def test_memory_stands_side_by_side(output: Path) -> None:
    results = json.loads(output.read_text())
    for row in results["rows"]:
        row["workload"] = "W3"
    other = [{**row, "engine": "torchvision", "peak_bytes": 5_000_000} for row in results["rows"]]
    results["rows"] += other
    results["engines"]["torchvision"] = results["engines"]["roidl-numpy"]
    page = report.page_block(results, "plot.png")
    _, _, table = page.partition("### Peak memory: MB, NCHW, float32\n\n")
    header, _, *lines = table.splitlines()
    assert header == "| operation | workload | threads | result | roidl-numpy | torchvision |"
    assert len(lines) == 3
    result = 100 * 2 * 256 * 14 * 14 * 4 / 2 / 1e6  # RoIs, channels, bins, bytes
    assert lines[0].startswith(f"| RoIAlign, forward | W3 | 1 | {result:.3g} |")
    assert all(line.endswith("| 5 |") for line in lines)


def test_gpu_says_why_it_cannot_run(tmp_path: Path) -> None:
    choice = ["--gpu", "--engines", "roidl-numpy", "--output", str(tmp_path / "gpu.json")]
    done = benchmarks(*choice)
    assert done.returncode != 0
    assert "no engine can run on cuda" in done.stderr
    assert "Traceback" not in done.stderr
