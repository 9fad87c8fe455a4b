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

    about = "pool a photograph with every front end, check the results, draw a figure"
    parser_of_demo = commands.add_parser("demo", help=about, description=about)
    parser_of_demo.add_argument(
        "--image", metavar="FILE", help="an image (default: scikit-image's astronaut)"
    )
    parser_of_demo.add_argument(
        "--boxes",
        nargs="+",
        default=(),
        metavar="x1,y1,x2,y2",
        help="regions in pixels; the figure shows the first (default: faces and some others)",
    )
    parser_of_demo.add_argument(
        "--output",
        default=demo.OUTPUT,
        metavar="FILE.png",
        help="the file of the figure (default: %(default)s)",
    )
    parser_of_demo.add_argument(
        "--frameworks",
        nargs="+",
        metavar="NAME",
        help=f"some of {', '.join(demo.FRONT_ENDS)} (default: the installed ones)",
    )
    about = "print version, instruction set, threads, CUDA and installed frameworks"
    commands.add_parser("info", help=about, description=about)
    return parser


def _run(parser: argparse.ArgumentParser, command: str | None, options: dict[str, Any]) -> None:
    if command is None:
        parser.print_help()
        return
    try:
        info = roidl.build_info()
    except ValueError as error:  # an invalid environment variable
        raise CommandError(str(error)) from None
    if command == "info":
        print("\n".join(_lines(info)))
    else:
        demo.run(**options)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit status: 0, 1 for a disagreement, 2 for an error."""
    parser = _parser()
    given = sys.argv[1:] if arguments is None else arguments
    # argparse takes -5,1,9,9 for an option unless a space precedes it.
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
