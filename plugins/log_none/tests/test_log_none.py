"""The driver that keeps nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from pyengine.contracts.base import DriverContext
from pyengine.contracts.logging import STDOUT, LogQuery
from pyengine.errors import InvalidParameter, Unsupported
from pyengine_log_none import NoneDriver


@pytest.fixture
def driver(tmp_path: Path) -> NoneDriver:
    return NoneDriver(DriverContext("e", "p", tmp_path / "root", tmp_path / "run"))


def test_nothing_is_written(driver: NoneDriver, tmp_path: Path) -> None:
    path = tmp_path / "log"
    writer = driver.writer(path, {}, {})
    writer.write(STDOUT, b"gone\n", 1)
    writer.flush()
    writer.close()
    driver.remove(path)
    assert list(tmp_path.iterdir()) == []
    assert writer.dropped() == 0


def test_reading_is_refused_with_dockers_words(driver: NoneDriver, tmp_path: Path) -> None:
    assert not driver.readable
    with pytest.raises(Unsupported) as error:
        driver.reader(tmp_path / "log", {}, LogQuery())
    assert error.value.message() == "configured logging driver does not support reading"


def test_options(driver: NoneDriver) -> None:
    driver.validate({"mode": "non-blocking"})
    with pytest.raises(InvalidParameter, match="unknown log opt 'max-size' for none log driver"):
        driver.validate({"max-size": "1m"})
