"""Values of --log-opt as Docker reads them."""

from __future__ import annotations

import pytest

from pyengine.bases.logoptions import check_common, parse_count, parse_flag, parse_size
from pyengine.errors import InvalidParameter


@pytest.mark.parametrize(
    ("text", "thousand", "size"),
    [
        ("0", 1000, 0),
        ("20m", 1000, 20_000_000),
        ("20M", 1024, 20 << 20),
        ("1.5GB", 1000, 1_500_000_000),
        ("64 KiB", 1000, 64_000),
        ("64KiB", 1024, 65_536),
        (".5k", 1000, 500),
        ("7b", 1000, 7),
        ("999999999p", 1000, 1 << 62),
    ],
)
def test_sizes(text: str, thousand: int, size: int) -> None:
    assert parse_size(text, thousand) == size


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "invalid size: ''"),
        ("x", "invalid size: 'x'"),
        ("-1", "invalid size: '-1'"),
        ("1  k", "invalid size: '1  k'"),
        ("٣m", "invalid size: '٣m'"),
        ("20x", "invalid suffix: 'x'"),
        ("20kbit", "invalid suffix: 'kbit'"),
        ("20bb", "invalid suffix: 'bb'"),
    ],
)
def test_what_is_no_size(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        parse_size(text)


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
