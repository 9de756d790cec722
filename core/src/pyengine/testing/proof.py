"""Proving a kit: which of its tests a driver fails."""

from __future__ import annotations

import pytest


def failed_tests(suite: object) -> list[str]:
    """Run all tests of a kit's suite without pytest; names of those that fail.

    For suites whose tests take no fixtures. A test that skips itself has not failed."""
    failed = []
    for name in sorted(dir(suite)):
        if not name.startswith("test_"):
            continue
        try:
            getattr(suite, name)()
        except pytest.skip.Exception:
            continue
        except (Exception, pytest.fail.Exception):
            failed.append(name)
    return failed
