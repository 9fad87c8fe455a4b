"""`python -m tests.cuda_on_host OUT` builds the library in OUT and prints what to set to use it."""

import sys
from pathlib import Path

from .build import build, environment


def main() -> None:
    """Build, and print the environment as a shell reads it."""
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.cuda_on_host OUT")
    for name, value in environment(build(Path(sys.argv[1]))).items():
        print(f"export {name}={value}")


main()
