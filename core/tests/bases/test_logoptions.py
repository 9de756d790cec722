"""Values of --log-opt as Docker reads them."""

from __future__ import annotations

import pytest

from pyengine.bases.logoptions import check_common, parse_count, parse_flag
from pyengine.errors import InvalidParameter


def test_counts_and_flags() -> None:
    assert [parse_count(text) for text in ("5", "-1", "+2", "007")] == [5, -1, 2, 7]
    assert [parse_flag(text) for text in ("1", "T", "false", "F")] == [True, True, False, False]
    for text in ("", "two", "1.5", " 1", "1_000", "9" * 30):
        with pytest.raises(ValueError, match="not a number"):
            parse_count(text)
    for text in ("", "yes", "tRUE"):
        with pytest.raises(ValueError, match="neither true nor false"):
            parse_flag(text)


def test_common_options() -> None:
    own = frozenset({"size"})
    check_common({"labels": "a", "tag": "b", "size": "1", "mode": "blocking"}, own, "no %s")
    check_common({"mode": "non-blocking", "max-buffer-size": "4m"}, own, "no %s")
    for options, message in (
        ({"sizes": "1"}, "no sizes"),
        ({"mode": "fast"}, "logger: logging mode not supported: fast"),
        ({"max-buffer-size": "4m"}, "only supported with 'mode=non-blocking'"),
        ({"mode": "non-blocking", "max-buffer-size": "4x"}, "option max-buffer-size"),
    ):
        with pytest.raises(InvalidParameter, match=message):
            check_common(options, own, "no %s")
