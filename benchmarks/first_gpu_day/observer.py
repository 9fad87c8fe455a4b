"""A pytest plugin: records every finished test, and ends workers whose context is broken."""

from __future__ import annotations

import os

import pytest

from .device_state import is_broken
from .records import FAILED, PASSED, SKIPPED, append_check

IN_WORKER = "PYTEST_XDIST_WORKER" in os.environ
_failed: set[str] = set()


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """Record a report once; xdist sends a worker's reports to the main process as well."""
    if report.failed:
        _failed.add(report.nodeid)
    if IN_WORKER:
        return
    if report.failed:
        append_check(report.nodeid, FAILED, report.longreprtext)
    elif report.skipped:
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
        append_check(report.nodeid, SKIPPED, why)
    elif report.when == "call":
        append_check(report.nodeid, PASSED)


def pytest_runtest_logfinish(nodeid: str) -> None:
    """End this worker; pytest-xdist replaces it, so that later tests do not fail as well."""
    if IN_WORKER and nodeid in _failed and is_broken():
        os._exit(3)
