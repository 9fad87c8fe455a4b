"""The benchmark end to end: a tiny run in its own processes, its files and their contents."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

import roidl

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks are no part of the package

from benchmarks import builds, load, report, variants  # noqa: E402
from benchmarks.case import OPERATIONS  # noqa: E402
from benchmarks.process import Process  # noqa: E402
from benchmarks.report import Results  # noqa: E402

KEY = ("workload", "operation", "layout", "dtype", "threads")


def benchmarks(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "benchmarks", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)


@pytest.fixture(scope="module")
def output(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The JSON of a run of one engine, and of one without an interpreter, which is left out."""
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
        assert row["timings"] >= 50
        half = 2**-8 if row["dtype"] == "bfloat16" else 2**-11
        assert row["error"] <= (1e-6 if row["dtype"] == "float32" else half)
    # One value is rounded: an error of another result would be 0 or large.
    assert rows["W6", "roi_align", "NCHW", "bfloat16", 1]["error"] > 0


def test_position_sensitive_operators_are_compared(tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    engines = ["--engines", "roidl-numpy", "--dtypes", "float32", "--layouts", "NHWC"]
    size = ["--workloads", "W9", "--threads", "1", "--seconds", "0.001"]
    done = benchmarks(*engines, *size, "--output", str(file))
    assert done.returncode == 0, done.stderr
    rows = rows_of(file)
    assert {operation for _, operation, *_ in rows} == {
        name for name in OPERATIONS if name.startswith("ps_")
    }
    assert all(0 < row["error"] <= 1e-6 for row in rows.values())


def test_bytes_and_share(output: Path) -> None:
    bandwidth = json.loads(output.read_text())["bandwidth"]["1"]
    row = rows_of(output)["W6", "roi_align", "NCHW", "float32", 1]
    assert row["bytes"] == 8 * 8 * 4 + 5 * 4 + 4  # map, box, result
    assert row["share"] == pytest.approx(row["bytes"] / row["min"] / bandwidth)


def test_records_machine_and_missing_engines(output: Path) -> None:
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
    """Gradients of every adapter, also on a loaded machine."""
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
        assert row["loaded"]["timings"] >= 50
    _, _, table = frameworks["markdown"].partition("## As many busy processes as CPUs")
    assert table.count("\n| RoI") == len(frameworks["rows"])


def test_every_cpu_has_a_busy_process_until_the_end() -> None:
    with load.busy() as processes:
        cpus = [os.sched_getaffinity(process.pid) for process in processes]
        assert sorted(map(list, cpus)) == [[cpu] for cpu in sorted(os.sched_getaffinity(0))]
        for process in processes:
            state = Path(f"/proc/{process.pid}/stat").read_text().rpartition(")")[2].split()[0]
            assert state == "R"  # the engine waits only for its turn
    assert None not in [process.poll() for process in processes]


def test_table_of_peak_memory(output: Path) -> None:
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


# Variants of the CUDA kernels ---------------------------------------------------------------------


def test_every_number_of_the_kernels_has_others_to_try() -> None:
    there = builds.defaults()
    assert set(variants.TRIALS) == set(there)
    for name, trial in variants.TRIALS.items():
        assert trial.values
        assert there[name] not in trial.values
        assert set(trial.operations) <= set(OPERATIONS)


def test_what_to_vary_is_read_and_the_default_left_out(capsys: pytest.CaptureFixture[str]) -> None:
    name, default = next(iter(builds.defaults().items()))
    options = variants.parser().parse_args(["--vary", f"{name}=3,{default},5"])
    found = list(variants.variants(dict(options.vary)))
    assert [variant.name for variant in found] == [f"{name}=3", f"{name}=5"]
    for wrong in ("NOTHING=1", f"{name}=1;2"):
        with pytest.raises(SystemExit):
            variants.parser().parse_args(["--vary", wrong])
        assert "argument --vary" in capsys.readouterr().err


def test_variant_compiles_only_affected_files(tmp_path: Path) -> None:
    kernel, header = tmp_path / "kernel.cu", tmp_path / "header.cuh"
    header.write_text('#include "tuning.h"\nconstexpr int kSlab = ROIDL_TUNE_A;\n')
    kernel.write_text('#include "header.cuh"\n')
    defined = "".join(f"#ifndef ROIDL_TUNE_{x}\n#define ROIDL_TUNE_{x} 1\n#endif\n" for x in "AB")
    (tmp_path / "tuning.h").write_text(defined)
    assert builds.depends(kernel, builds.Variant("A", "2"))
    assert not builds.depends(kernel, builds.Variant("B", "2"))
    assert not builds.depends(kernel, builds.Variant())


def test_registers_and_spills_are_read_from_the_compilers_words() -> None:
    def said(name: str, spills: int) -> str:
        return (
            f"ptxas info    : Compiling entry function '{name}' for 'sm_90'\n"
            f"ptxas info    : Function properties for {name}\n"
            f"    8 bytes stack frame, {spills} bytes spill stores, 4 bytes spill loads\n"
            "ptxas info    : Used 64 registers, used 1 barriers\n"
        )

    words = said("_Z3runIfE", 12) + said("_Z3runIdE", 0)
    assert builds.kernels(words) == {"_Z3runIfE": [64, 24]}


@pytest.fixture(scope="module")
def measured(tmp_path_factory: pytest.TempPathFactory) -> tuple[Results, str]:
    """A run on CPU of a variant (there the default kernels), and of one that was not built."""
    pytest.importorskip("torch")
    folder = tmp_path_factory.mktemp("variants")
    name, default = next(iter(builds.defaults().items()))
    kernel = {"_Z3runIfE": [64, 0]}
    made = {
        variant.name: {**variant._asdict(), "files": 1, "kernels": kernel, "library": "any.so"}
        for variant in (builds.Variant(), builds.Variant(name, "1"), builds.Variant(name, "3"))
    }
    made[f"{name}=3"] = {"constant": name, "value": "3", "files": 1, "failure": "error: too many"}
    made[f"{name}=1"]["kernels"] = {"_Z3runIfE": [96, 16]}
    output = folder / "variants.json"
    size = ["--workloads", "W6", "--seconds", "0.001", "--folder", str(folder)]
    options = variants.parser().parse_args([*size, "--output", str(output)])
    trials = {name: variants.Trial(("1", "3"), ("roi_align",), ("NCHW",))}
    manifest = {"sources": builds.sources(), "variants": made}
    results = variants.measure(manifest, trials, options, "cpu")
    assert json.loads(output.read_text())["defaults"][name] == default
    return results, variants.full(results)


def test_variants_are_engines_where_they_matter(measured: tuple[Results, str]) -> None:
    results, _ = measured
    rows = {(row["engine"], row["operation"], row["layout"]) for row in results["rows"]}
    (varied,) = {engine for engine, _, _ in rows} - {variants.DEFAULT, variants.AGAIN}
    assert [row for row in rows if row[0] == varied] == [(varied, "roi_align", "NCHW")]
    everywhere = {row for row in rows if row[0] == variants.DEFAULT}
    assert len(everywhere) == 4 * 2  # operations, layouts
    assert {(variants.AGAIN, *row[1:]) for row in everywhere} < rows


def test_each_variant_has_its_library(tmp_path: Path) -> None:
    name = next(iter(builds.defaults()))
    made = {
        variant.name: {**variant._asdict(), "library": f"{variant.file}.so"}
        for variant in (builds.Variant(), builds.Variant(name, "1"))
    }
    found = variants.engines(made, tmp_path, variants.TRIALS)
    libraries = [spec.variables["ROIDL_CUDA_LIBRARY"] for spec in found.values()]
    default = str(tmp_path / "default.so")
    assert libraries == [default, default, str(tmp_path / f"{name}-1.so")]


def test_a_worker_gets_its_variables() -> None:
    variables = {"ROIDL_CUDA_LIBRARY": "/nowhere/libroidl_cuda.so"}
    engine = "benchmarks.engines.roidl:Numpy"
    with closing(Process(sys.executable, engine, 1, "cpu", variables)) as worker:
        assert worker.order("describe")["offers"]
        environment = Path(f"/proc/{worker.pid}/environ").read_bytes()
    assert b"ROIDL_CUDA_LIBRARY=/nowhere/libroidl_cuda.so\0" in environment


def test_an_object_is_compiled_as_the_installed_one(tmp_path: Path) -> None:
    if not list(ROOT.glob("build/*/build.ninja")) or shutil.which("ninja") is None:
        pytest.skip("not installed from this folder, or by another tool than ninja")
    tree = builds.cmake_tree()
    if not roidl.build_info()["cuda"]["built"]:
        pytest.skip("installed without CUDA")
    lines, link = builds.compile_lines(tree)
    assert {line.file.name for line in lines if line.file.suffix == ".cu"} == {
        file.name for file in (ROOT / "cuda").glob("*.cu")
    }
    assert all(line.output in link.command for line in lines)
    (line,) = [line for line in lines if line.file.name == "backend.cu"]
    said = builds.compile_object(line, tree, tmp_path, builds.Variant("ANY", "2"))
    assert (tmp_path / "ANY-2/backend.cu.o").exists()
    assert "entry function" in said
    with pytest.raises(builds.BuildError, match="error"):
        builds.compile_object(line, tree, tmp_path, builds.Variant("ANY", "2 --no-such-option"))


def test_the_table_has_ratios_and_what_the_compiler_said(measured: tuple[Results, str]) -> None:
    results, text = measured
    name, default = next(iter(builds.defaults().items()))
    times = {
        row["engine"]: row["min"]
        for row in results["rows"]
        if (row["operation"], row["layout"]) == ("roi_align", "NCHW")
    }
    ratio = times[f"{name}=1"] / times[variants.DEFAULT]
    _, _, section = text.partition(f"## {name}: time ÷ the default's")
    line = next(line for line in section.splitlines() if "| W6 |" in line)
    assert f"| {times[variants.DEFAULT] * 1e6:.1f} | {ratio:.2f} |" in line
    best = "1" if ratio < 1 else default
    assert f"| {name} | {default} | {best} | 1: {ratio:.3f} |" in text
    assert "The default against itself" in text
    assert f"| {name}=1 | 1 | 96 | 64 → 96; 1 spill |" in text
    assert "not built: error: too many" in text


def test_gpu_table_compares_with_torchvision(output: Path) -> None:
    results = json.loads(output.read_text())
    results.update(device="cuda", bandwidth={"1": 1e9}, cache_bandwidth=2e9)
    ours = [row for row in results["rows"] if row["dtype"] != "bfloat16"]
    for row in ours:
        row.update(engine="roidl-torch", min=4e-6, graph=3e-6, kernels=1.0)
    results["rows"] += [
        {**row, "engine": "torchvision", "min": 9e-6, "graph": 6e-6}
        for row in ours
        if row["dtype"] == "float32"
    ]
    text = report.full(results)
    assert "a copy on the device moves 1 GB/s, one within its cache 2" in text
    _, _, table = text.partition("## Beside torchvision\n\n")
    _, _, *lines = table.splitlines()
    assert len(lines) == len(ours)
    floor = 0.28  # 280 bytes at 1 GB/s
    times = f"| 6.0 | 3.0 | 2.0x | 9.0 | 4.0 | 2.2x | {floor:.1f} | {3 / floor:.1f} |"
    (line,) = [
        line for line in lines if line.startswith("| RoIAlign, forward | W6 | NCHW | float3")
    ]
    assert times in line
