"""Information about this process: version, instruction set, threads, CUDA, frameworks."""

from __future__ import annotations

import platform
from typing import Any

from . import _core
from ._params import check_flag

__version__ = "0.1.0"

# Distribution names; of several, the first that is installed counts.
FRAMEWORKS = {
    "numpy": ("numpy",),
    "cupy": ("cupy-cuda13x", "cupy-cuda12x", "cupy"),
    "torch": ("torch",),
    "jax": ("jax",),
    "tensorflow": ("tensorflow", "tensorflow-cpu"),
    "keras": ("keras",),
}


def get_num_threads() -> int:
    """Return how many threads a call may use.

    The default is the environment variable ``ROIDL_NUM_THREADS``, or else ``OMP_NUM_THREADS`` (of a
    list like "4,2" the first number; values that are invalid in OpenMP are ignored), or else the
    CPUs that the process may use (its affinity and its control group's quota). The environment is
    read once, at the first call that needs it.

    Examples
    --------
    >>> import roidl
    >>> roidl.get_num_threads() >= 1
    True
    """
    return _core.get_num_threads()


def set_num_threads(threads: int) -> None:
    """Set how many threads a call may use, for the whole process. Results do not depend on it.

    Parameters
    ----------
    threads : int
        At least 1.

    Raises
    ------
    ValueError
        If ``threads`` is less than 1.

    Examples
    --------
    >>> import roidl
    >>> roidl.set_num_threads(1)
    >>> roidl.get_num_threads()
    1
    """
    if isinstance(threads, bool) or not hasattr(threads, "__index__"):
        raise TypeError(f"set_num_threads: threads must be an integer, got {threads!r}")
    if threads < 1:
        raise ValueError(f"set_num_threads: threads must be at least 1, got {threads}")
    _core.set_num_threads(min(threads.__index__(), 2**31 - 1))


def build_info() -> dict[str, Any]:
    """Return versions, instruction set, threads, CUDA and the frameworks that are installed.

    Returns
    -------
    dict
        ``version``, ``python``, ``platform``, ``instruction_set`` (of the CPU kernels in use),
        ``stress`` (whether the kernels use the tiny tuning constants of tests), ``threads``,
        ``cuda`` (``built``, ``usable``, ``architectures``) and ``frameworks`` (name to version
        of the installed ones; none is imported).

    Examples
    --------
    >>> import roidl
    >>> sorted(roidl.build_info()["cuda"])
    ['architectures', 'built', 'usable']
    """
    return {
        "version": __version__,
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "instruction_set": _core.instruction_set_name(),
        "stress": _core.is_stress_build(),
        "threads": get_num_threads(),
        "cuda": _cuda(),
        "frameworks": _installed_frameworks(),
    }


def _cuda() -> dict[str, Any]:
    built, reason, architectures = _core.cuda_info()
    return {
        "built": built,
        "usable": built and reason is None,
        "architectures": architectures.split(",") if architectures else [],
    }


def get_check_boxes() -> bool:
    """Return whether calls on CUDA read the boxes back and check their values.

    Examples
    --------
    >>> import roidl
    >>> roidl.get_check_boxes()
    False
    """
    return _core.get_check_boxes()


def set_check_boxes(check: bool) -> None:
    """Set whether calls on CUDA read the boxes back and check their values.

    Boxes on CPU are always checked: a batch index without an image or a coordinate that is not
    finite is a ``ValueError``. On CUDA the check has to wait for the device. Without it, such a row
    gives zeros and gets no gradient. The default is the environment variable ``ROIDL_CHECK_BOXES``.

    Parameters
    ----------
    check : bool

    Examples
    --------
    >>> import roidl
    >>> roidl.set_check_boxes(False)
    """
    _core.set_check_boxes(check_flag("set_check_boxes", "check", check))


def _installed_frameworks() -> dict[str, str]:
    from importlib import metadata  # takes 10 ms, which `import roidl` avoids

    found = {}
    for name, distributions in FRAMEWORKS.items():
        for distribution in distributions:
            try:
                found[name] = metadata.version(distribution)
                break
            except metadata.PackageNotFoundError:
                continue
    return found
