"""Every command line: errors are one line on stderr and status 2, never a traceback."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from roidl import _command_line, demo
from roidl.__main__ import main as roidl_main

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))  # benchmarks and examples are no part of the package

from benchmarks import __main__ as benchmarks  # noqa: E402
from benchmarks import builds, variants  # noqa: E402

EXAMPLES = sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "examples").glob("[a-z]*.py")
)
NEEDED = ("matplotlib", "skimage", "sklearn", "tqdm")
HAS_EXTRA = all(importlib.util.find_spec(name) for name in NEEDED)


def run_file(file: str, *arguments: str, missing: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program in its own process, with a package hidden."""
    code = (
        "import runpy, sys\n"
        "missing, *sys.argv = sys.argv[1:]\n"
        "if missing: sys.modules[missing] = None\n"
        "sys.path.insert(0, '')\n"
        "run = runpy.run_path if sys.argv[0].endswith('.py') else runpy.run_module\n"
        "run(sys.argv[0], run_name='__main__')"
    )
    command = [sys.executable, "-c", code, missing, file, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)


@pytest.fixture
def complaint(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., str]:
    """The error message for wrong arguments; `{}` in them is a temporary folder."""
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "text").write_text("[1")
    (tmp_path / "empty").write_text("")
    (tmp_path / "object.json").write_text("{}")
    (tmp_path / "bare.json").write_text('{"format": 1, "rows": [{}], "machine": {}}')
    (tmp_path / "list.json").write_text("[]")
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    (tmp_path / "engine.toml").write_text('[environments]\n[engines]\na = {environment = "b"}')
    np.save(tmp_path / "array.npy", np.ones(3))
    np.savez(tmp_path / "other.npz", conv1=np.ones(3), pool=np.array("align"))

    def of(main: Callable[[], object], arguments: str) -> str:
        given = arguments.replace("{}", str(tmp_path)).split()
        monkeypatch.setattr(sys, "argv", ["prog", *given])
        with pytest.raises(SystemExit) as end:
            sys.exit(main())  # type: ignore[arg-type]
        assert end.value.code == 2
        said = capsys.readouterr()
        assert said.out == ""
        (line,) = said.err.splitlines()
        return line.replace(str(tmp_path), "{}")

    return of


# Missing or wrong files, numbers out of range, unknown names --------------------------------------


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--report nosuch.json", "cannot read nosuch.json: No such file or directory"),
        ("--report {}", "cannot read {}: Is a directory"),
        ("--report {}/text", "{}/text is not a JSON file: "),
        ("--report {}/bytes", "{}/bytes is not a JSON file: "),
        ("--report {}/list.json", "{}/list.json holds no results of this benchmark"),
        ("--report {}/object.json", "{}/object.json holds no results of this benchmark"),
        ("--report {}/bare.json", "{}/bare.json holds no results of this benchmark"),
        ("--compare {}/bare.json {}/bare.json", "{}/bare.json or {}/bare.json holds no results"),
        ("--compare nosuch.json b.json", "cannot read nosuch.json: "),
        ("--compare a.json", "argument --compare: expected 2 arguments"),
        ("--update-docs {}/bare.json", "--update-docs: {}/bare.json is not in this clone"),
        ("--report a.json --update-docs a.json", "argument --update-docs: not allowed with"),
        ("--threads 0", "argument --threads: must be a whole number of at least 1, got '0'"),
        ("--threads 100000", "--threads: from 1 to the "),
        ("--seconds 0", "argument --seconds: must be a positive number, got '0'"),
        ("--seconds nan", "argument --seconds: must be a positive number, got 'nan'"),
        ("--seconds inf", "argument --seconds: must be a positive number, got 'inf'"),
        ("--config nosuch.toml", "--config: cannot read nosuch.toml: No such file"),
        ("--config {}/text", "--config: {}/text is not a TOML file: "),
        ("--config {}/empty", "--config: {}/empty has no 'environments'"),
        ("--config {}/engine.toml", "--config: {}/engine.toml has no 'b'"),
        ("--engines nosuch", "--engines: none of torchvision, "),
        ("--python nosuch=python", "--python: no environment 'nosuch', there are roidl, "),
        ("--python roidl", "--python: ENVIRONMENT=PATH, got 'roidl'"),
        ("--workloads W99", "argument --workloads: invalid choice: 'W99'"),
        ("--output {}/a.md", "cannot write {}/a.md: name a file that ends in .json"),
        ("--output {}/folder.json", "cannot write {}/folder.json: it is a folder"),
        ("--output {}/text/a.json", "cannot make the folder {}/text: File exists"),
        ("--output /proc/no/a.json", "cannot make the folder /proc/no: "),
    ],
)
def test_benchmarks(arguments: str, expected: str, complaint: Callable[..., str]) -> None:
    line = complaint(benchmarks.main, arguments)
    assert line.startswith(f"python -m benchmarks: {expected}")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--jobs 0", "argument --jobs: must be a whole number of at least 1, got '0'"),
        ("--seconds -1", "argument --seconds: must be a positive number, got '-1'"),
        ("--folder {}/text", "cannot make the folder {}/text: File exists"),
        ("--folder {} --output {}/a", "cannot write {}/a: name a file that ends in .json"),
        ("--folder {} --output {}/a.json --no-build", "--no-build: there is no {}/variants.json"),
    ],
)
def test_variants(arguments: str, expected: str, complaint: Callable[..., str]) -> None:
    line = complaint(variants.main, arguments)
    assert line.startswith(f"python -m benchmarks.variants: {expected}")


@pytest.mark.parametrize("text", ["[1", "[]", "{}", '{"sources": 1}'])
def test_a_manifest_of_variants(text: str, tmp_path: Path) -> None:
    (tmp_path / builds.MANIFEST).write_text(text)
    with pytest.raises(_command_line.CommandError):
        builds.read(tmp_path)


@pytest.mark.skipif(not HAS_EXTRA, reason="the extra examples is missing")
@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ("--steps 0", "argument --steps: must be a whole number of at least 1, got '0'"),
        ("--scenes -1", "argument --scenes: must be a whole number of at least 1, got '-1'"),
        ("--steps 1.5", "argument --steps: must be a whole number of at least 1, got '1.5'"),
        ("--framework nosuch", "argument --framework: invalid choice: 'nosuch'"),
        ("--evaluate nosuch.npz", "--evaluate: cannot read nosuch.npz: No such file"),
        ("--evaluate {}", "--evaluate: cannot read {}: Is a directory"),
        ("--evaluate {}/text", "--evaluate: {}/text is not an .npz file of arrays"),
        ("--evaluate {}/empty", "--evaluate: {}/empty is not an .npz file of arrays"),
        ("--evaluate {}/array.npy", "--evaluate: {}/array.npy is not an .npz file of arrays"),
        ("--evaluate {}/other.npz", "--evaluate: {}/other.npz holds no weights of this network, "),
        ("--evaluate a.npz --compare", "argument --compare: not allowed with argument --evaluate"),
        ("--output {}/text", "cannot make the folder {}/text: File exists"),
        ("--output {}/text/a", "cannot make the folder {}/text/a: Not a directory"),
    ],
)
def test_fast_rcnn(arguments: str, expected: str, complaint: Callable[..., str]) -> None:
    from examples.fast_rcnn.__main__ import main

    line = complaint(main, arguments)
    assert line.startswith(f"python -m examples.fast_rcnn: {expected}")


@pytest.mark.skipif(not HAS_EXTRA, reason="the extra examples is missing")
@pytest.mark.parametrize("framework", ["torch", "tensorflow", "jax"])
def test_fast_rcnn_where_there_is_no_gpu(
    framework: str, complaint: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip(framework)
    if framework == "jax":
        pytest.importorskip("optax")
    from examples.fast_rcnn.__main__ import main

    model = importlib.import_module(f"examples.fast_rcnn.{framework}_model")
    if model.finds_cuda():
        pytest.skip("there is a GPU")
    arguments = f"--framework {framework} --device cuda --output " + "{}"
    prog = "python -m examples.fast_rcnn: --device cuda:"
    usable = {"cuda": {"usable": False}}
    monkeypatch.setattr("roidl.build_info", lambda: usable)
    assert complaint(main, arguments).startswith(f"{prog} roidl cannot use CUDA here")
    usable["cuda"]["usable"] = True
    assert complaint(main, arguments) == f"{prog} {framework} finds no GPU here"


@pytest.mark.parametrize(
    ("file", "arguments", "expected"),
    [
        ("examples/tensorflow_fpn.py", "--size 8", "argument --size: must be a whole number of at"),
        ("examples/tensorflow_fpn.py", "--proposals 0", "argument --proposals: must be a whole"),
        ("examples/jax_box_head.py", "--steps 0", "argument --steps: must be a whole number of"),
    ],
)
def test_numbers_of_examples(file: str, arguments: str, expected: str) -> None:
    if "jax" in file:
        pytest.importorskip("jax")
    done = run_file(file, *arguments.split())
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"{file}: {expected}")


# Missing packages ---------------------------------------------------------------------------------


@pytest.mark.parametrize("file", EXAMPLES)
def test_a_missing_framework_is_a_line_with_the_command(file: str) -> None:
    text = (ROOT / file).read_text()
    name = next(each for each in ("torch", "jax", "tensorflow") if f"import {each}" in text)
    done = run_file(file, missing=name)
    assert done.returncode == 2
    how = f"pip install '.[{name}]' in a clone of roidl"
    assert done.stderr == f"{file}: {name} is not installed here: {how}\n"


@pytest.mark.parametrize("module", ["matplotlib", "sklearn"])
def test_fast_rcnn_without_its_extra(module: str) -> None:
    done = run_file("examples.fast_rcnn", missing=module)
    assert done.returncode == 2
    assert done.stderr.startswith(f"python -m examples.fast_rcnn: {module} is not installed here: ")
    assert len(done.stderr.splitlines()) == 1


def test_errors_are_raised_on_import() -> None:
    with pytest.raises(ModuleNotFoundError), _command_line.one_line("prog", "examples.some"):
        raise ModuleNotFoundError(name="torch")


def test_a_bug_keeps_its_traceback() -> None:
    for bug in (ValueError("bug"), ModuleNotFoundError(name="roidl._nosuch"), OSError("bug")):
        with pytest.raises(type(bug)), _command_line.one_line("prog"):
            raise bug


# Output that cannot be written, and Ctrl-C --------------------------------------------------------


def info(stdout: int) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-m", "roidl", "info"]
    return subprocess.run(command, stdout=stdout, stderr=subprocess.PIPE, timeout=60)


def test_broken_pipe() -> None:
    read, write = os.pipe()
    os.close(read)
    done = info(write)
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_output_to_a_full_disk() -> None:
    full = os.open("/dev/full", os.O_WRONLY)
    done = info(full)
    os.close(full)
    assert (done.returncode, done.stderr) == (2, b"roidl info: No space left on device\n")


def test_an_interrupted_demo(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(**options: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(demo, "run", interrupted)
    assert roidl_main(["demo"]) == 130
    assert capsys.readouterr().err == "roidl demo: interrupted\n"


def test_a_signal_while_a_program_works() -> None:
    code = (
        "import time\nfrom roidl._command_line import one_line\n"
        "with one_line('prog'):\n    print('begun', flush=True)\n    time.sleep(60)"
    )
    command, pipe = [sys.executable, "-c", code], subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert (process.returncode, said) == (130, "prog: interrupted\n")


def test_a_variable_that_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def build_info() -> None:
        raise ValueError("roidl: ROIDL_ISA must be one of a, b, got 'mmx'")

    monkeypatch.setattr("roidl.build_info", build_info)
    for command in ("info", "demo"):
        assert roidl_main([command]) == 2
        said = capsys.readouterr().err
        assert said == f"roidl {command}: roidl: ROIDL_ISA must be one of a, b, got 'mmx'\n"


@pytest.mark.parametrize(
    "arguments", ["nosuch", "info --nosuch", "demo --boxes", "demo --nosuch 1"]
)
def test_usage(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert roidl_main(arguments.split()) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("roidl")


def test_results_that_are_right_can_be_reported(
    complaint: Callable[..., str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Results in the clone are accepted, although some are of earlier versions."""
    for file in sorted((ROOT / "benchmarks/results").glob("*.json")):
        copy = tmp_path / file.name
        copy.write_text(json.dumps(json.loads(file.read_text())))
        monkeypatch.setattr(benchmarks, "_write_report", lambda results, to: None)
        monkeypatch.setattr(sys, "argv", ["prog", "--report", str(copy)])
        benchmarks.main()
        monkeypatch.setattr(sys, "argv", ["prog", "--compare", str(copy), str(file)])
        benchmarks.main()
