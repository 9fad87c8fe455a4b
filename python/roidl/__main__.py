"""The command line: `roidl demo` and `roidl info`; `python -m roidl` is the same."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import roidl

from . import demo
from ._command_line import CommandError, Parser, one_line


def _lines(info: Mapping[str, Any], indent: str = "") -> Iterator[str]:
    for name, value in info.items():
        label = f"{indent}{name}:"
        if isinstance(value, Mapping):
            yield label
            yield from _lines(value, indent + "  ")
            continue
        if isinstance(value, bool):
            value = "yes" if value else "no"
        elif isinstance(value, (list, tuple)):
            value = ", ".join(map(str, value)) or "none"
        yield f"{label:<18} {value}"


def _parser() -> argparse.ArgumentParser:
    parser = Parser(prog="roidl", description=roidl.__doc__)
    commands = parser.add_subparsers(dest="command", title="commands", metavar="COMMAND")

    about = "pool a photograph through every front end, check that they agree, draw a figure"
    parser_of_demo = commands.add_parser("demo", help=about, description=about)
    parser_of_demo.add_argument(
        "--image", metavar="FILE", help="a picture (default: scikit-image's astronaut)"
    )
    parser_of_demo.add_argument(
        "--boxes",
        nargs="+",
        default=(),
        metavar="x1,y1,x2,y2",
        help="regions in pixels; the figure shows the first (default: faces, and a few others)",
    )
    parser_of_demo.add_argument(
        "--output",
        default=demo.OUTPUT,
        metavar="FILE.png",
        help="where to put the figure (default: %(default)s)",
    )
    parser_of_demo.add_argument(
        "--frameworks",
        nargs="+",
        metavar="NAME",
        help=f"among {', '.join(demo.FRONT_ENDS)} (default: those that are installed)",
    )
    about = "print version, instruction set, threads, CUDA and the frameworks found"
    commands.add_parser("info", help=about, description=about)
    return parser


def _run(parser: argparse.ArgumentParser, command: str | None, options: dict[str, Any]) -> None:
    if command is None:
        parser.print_help()
        return
    try:
        info = roidl.build_info()
    except ValueError as error:  # a variable of the environment
        raise CommandError(str(error)) from None
    if command == "info":
        print("\n".join(_lines(info)))
    else:
        demo.run(**options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status: 0, 1 for a disagreement, 2 for an error."""
    parser = _parser()
    given = sys.argv[1:] if arguments is None else arguments
    # argparse takes -5,1,9,9 for an option; with a space in front it is a box, off the picture.
    given = [re.sub(r"^(?=-[\d.])", " ", argument) for argument in given]
    try:
        with one_line("roidl"):
            options = vars(parser.parse_args(given))
            command = options.pop("command")
            with one_line(f"roidl {command}"):
                _run(parser, command, options)
    except SystemExit as end:
        return int(end.code or 0)
    return 0


if __name__ == "__main__":
    sys.exit(main())
