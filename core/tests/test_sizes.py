"""Sizes are read as Docker's Go packages read them."""

from __future__ import annotations

import pytest

from pyengine import sizes


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
    assert sizes.parse(text, thousand) == size


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
        sizes.parse(text)
