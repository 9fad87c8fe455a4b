"""The compiled bridges: libraries that offer the operators as a framework calls them."""

from __future__ import annotations

from pathlib import Path

from . import _core


def bridge(name: str) -> str:
    """Return the path of libroidl_<name>.so."""
    # Beside the compiled core: in an editable install that is not where this file lies.
    return str(Path(_core.__file__).with_name(f"libroidl_{name}.so"))
