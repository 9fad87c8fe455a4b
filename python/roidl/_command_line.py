"""What command lines share: one line on stderr for what is wrong, an exit status, no traceback.

Those of benchmarks/ and examples/ are run by it, too. A wrong argument is status 2, as argparse has
it, Ctrl-C 130, and output that nobody reads any more is no error: 141, as of a program in C.
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

WRONG, INTERRUPTED, NOBODY_READS = 2, 130, 141

# The extra that a module comes with.
EXTRAS = {
    **{name: name for name in ("torch", "jax", "tensorflow", "keras")},
    **dict.fromkeys(("matplotlib", "skimage", "tqdm"), "demo"),
    **dict.fromkeys(("optax", "sklearn"), "examples"),
}
PACKAGES = ("torchvision",)  # no extra has them, their own command installs them


class CommandError(Exception):
    """What the user has to know in one line, and the exit status that goes with it."""

    def __init__(self, message: str, status: int = WRONG) -> None:
        super().__init__(message)
        self.status = status


class Parser(argparse.ArgumentParser):
    """argparse's, that says what is wrong without the lines of usage before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(WRONG, f"{self.prog}: {message}\n")


def not_installed(module: str) -> str:
    """That a module is missing, and how to get it: roidl is on no package index."""
    how = ""
    if module in EXTRAS:
        how = f": pip install '.[{EXTRAS[module]}]' in a clone of roidl"
    elif module in PACKAGES:
        how = f": pip install {module}"
    return f"{module} is not installed here{how}"


def _explain(error: BaseException) -> tuple[str, int] | None:
    """The line and the status of what a user can mend; of all else nothing: it is a bug."""
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
    """Write what waits, or else drop it: at its end the interpreter would complain."""
    try:
        if stream is not None:
            stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


@contextmanager
def one_line(prog: str, module: str = "__main__") -> Iterator[None]:
    """End the process with a line about what goes wrong here, where a user can mend it.

    `module` is the ``__name__`` of a file that can be imported as well: then errors stay errors.
    """
    try:
        yield
        if sys.stdout is not None:
            sys.stdout.flush()
    except BrokenPipeError:
        _flush(sys.stdout)
        _flush(sys.stderr)
        raise SystemExit(NOBODY_READS) from None
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
    """Whole numbers from `least` on."""
    what = f"a whole number of at least {least}"
    return lambda text: int(_number(text, int, lambda value: value >= least, what))


def seconds(text: str) -> float:
    """A positive, finite number."""
    what = "a positive number"
    return float(_number(text, float, lambda value: 0 < value < math.inf, what))


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises
    ------
    CommandError
        If it cannot be read, or is none.
    """
    try:
        return json.loads(path.read_text())
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise CommandError(f"{path} is not a JSON file: {error}") from None


def make_folder(path: Path) -> None:
    """Have a folder to write into, before anything is computed for it.

    Raises
    ------
    CommandError
        If there is none, and none can be made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CommandError(f"cannot make the folder {path}: {error.strerror}") from None
    if not os.access(path, os.W_OK | os.X_OK):
        raise CommandError(f"cannot write into the folder {path}")


def check_output(path: Path, suffix: str) -> None:
    """The same of a file, whose name ends in `suffix`."""
    if path.suffix.lower() != suffix:
        raise CommandError(f"cannot write {path}: name a file that ends in {suffix}")
    make_folder(path.parent)
    if path.is_dir() or (path.exists() and not os.access(path, os.W_OK)):
        reason = "it is a folder" if path.is_dir() else "it is write-protected"
        raise CommandError(f"cannot write {path}: {reason}")
