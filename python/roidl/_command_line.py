"""Shared code of command lines: user errors are one line on stderr and an exit status.

The command lines of benchmarks/ and examples/ use it as well. The status is 2 for a wrong argument
(as in argparse), 130 for Ctrl-C, and 141 for a closed output pipe (as for a program in C).
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

WRONG, INTERRUPTED, BROKEN_PIPE = 2, 130, 141

# The extra that installs a module.
EXTRAS = {
    **{name: name for name in ("torch", "jax", "tensorflow", "keras")},
    **dict.fromkeys(("matplotlib", "skimage", "tqdm"), "demo"),
    **dict.fromkeys(("optax", "sklearn"), "examples"),
}
PACKAGES = ("torchvision",)  # in no extra; installed under their own names


class CommandError(Exception):
    """A user error: a message of one line, and the exit status."""

    def __init__(self, message: str, status: int = WRONG) -> None:
        super().__init__(message)
        self.status = status


class Parser(argparse.ArgumentParser):
    """argparse's parser, whose errors omit the usage lines."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG, f"{self.prog}: {message}\n")


def not_installed(module: str) -> str:
    """The message that a module is missing, and how to install it (from a clone of roidl)."""
    how = ""
    if module in EXTRAS:
        how = f": pip install '.[{EXTRAS[module]}]' in a clone of roidl"
    elif module in PACKAGES:
        how = f": pip install {module}"
    return f"{module} is not installed here{how}"


def _explain(error: BaseException) -> tuple[str, int] | None:
    """The message and the status of an error that a user can correct; None for other errors."""
    if isinstance(error, CommandError):
        return str(error), error.status
    if isinstance(error, KeyboardInterrupt):
        return "interrupted", INTERRUPTED
    if isinstance(error, ModuleNotFoundError):
        module = (error.name or "").partition(".")[0]
        return (not_installed(module), WRONG) if module in {*EXTRAS, *PACKAGES} else None
    if isinstance(error, OSError) and error.strerror:
        where = "" if error.filename is None else f"{error.filename}: "
        return f"{where}{error.strerror}", WRONG
    return None


def _flush(stream: Any) -> None:
    """Flush the stream; discard its buffer if that fails, so that the exiting interpreter can."""
    try:
        if stream is not None:
            stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def one_line(prog: str, module: str = "__main__") -> Iterator[None]:
    """Exit with a message of one line for an error that a user can correct.

    `module` is the caller's ``__name__``; errors are raised unchanged if it is not ``"__main__"``.
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _flush(sys.stdout)
        _flush(sys.stderr)
        raise SystemExit(BROKEN_PIPE) from None
    except BaseException as error:
        explained = _explain(error)
        if module != "__main__" or explained is None:
            raise
        message, status = explained
        print(f"{prog}: {message}", file=sys.stderr)
        _flush(sys.stdout)
        raise SystemExit(status) from None


# Types of arguments -------------------------------------------------------------------------------


def _number(
    text: str, kind: Callable[[str], Any], is_right: Callable[[Any], bool], what: str
) -> Any:
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not is_right(value):
        raise argparse.ArgumentTypeError(f"must be {what}, got {text!r}")
    return value


def count(least: int = 1) -> Callable[[str], int]:
    """An argument type: whole numbers of at least `least`."""
    what = f"a whole number of at least {least}"
    return lambda text: int(_number(text, int, lambda value: value >= least, what))


def seconds(text: str) -> float:
    """An argument type: positive, finite numbers."""
    what = "a positive number"
    return float(_number(text, float, lambda value: 0 < value < math.inf, what))


def read_json(path: Path) -> Any:
    """The contents of a JSON file.

    Raises
    ------
    CommandError
        If the file cannot be read, or is not JSON.
    """
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{path} is not a JSON file: {error}") from None


def make_folder(path: Path) -> None:
    """Make an output folder, before the computation whose results it gets.

    Raises
    ------
    CommandError
        If the folder cannot be made or is not writable.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"cannot make the folder {path}: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise CommandError(f"cannot write into the folder {path}")


def check_output(path: Path, suffix: str) -> None:
    """Check that an output file can be written and its name ends in `suffix`; make its folder."""
    if path.suffix.lower() != suffix:
        raise CommandError(f"cannot write {path}: name a file that ends in {suffix}")
    make_folder(path.parent)
    if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
        reason = "it is a folder" if path.is_dir() else "it is write-protected"
        raise CommandError(f"cannot write {path}: {reason}")
