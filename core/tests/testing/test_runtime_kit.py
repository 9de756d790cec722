"""Rules of the runtime kit itself; drivers prove the rest."""

from __future__ import annotations

import os
import signal
import time

import pytest

from pyengine.testing import containers
from pyengine.testing.runtime import RuntimeDriverSuite

pytest_plugins = ["pytester"]
SUITE = """
    from pyengine.testing.runtime import RuntimeDriverSuite

    class TestDriver(RuntimeDriverSuite):
        opt_out = {opt_out!r}

        def test_zzz_good(self):
            pass

        def test_zzz_bad(self):
            raise AssertionError
"""


def outcomes(pytester: pytest.Pytester, opt_out: dict[str, str]) -> dict[str, int]:
    pytester.makepyfile(SUITE.format(opt_out=opt_out))
    return pytester.runpytest("-k", "test_zzz").parseoutcomes()


def test_opt_outs(pytester: pytest.Pytester) -> None:
    """One with a reason is taken; one that passes is reported."""
    found = outcomes(pytester, {"test_zzz_bad": "the kernel forbids it"})
    assert (found.get("xfailed"), found.get("passed"), found.get("failed")) == (1, 1, None)


def test_opt_out_that_passes(pytester: pytest.Pytester) -> None:
    found = outcomes(pytester, {"test_zzz_good": "once needed", "test_zzz_bad": "needed"})
    assert (found.get("xfailed"), found.get("failed")) == (1, 1)


def test_opt_out_without_reason(pytester: pytest.Pytester) -> None:
    assert outcomes(pytester, {"test_zzz_bad": " "}).get("errors") == 1


def test_the_suite_is_whole() -> None:
    names = [n for n in dir(RuntimeDriverSuite) if n.startswith("test_")]
    assert len(names) >= 30
    assert set(RuntimeDriverSuite.opt_out) <= set(names)


class Nothing:
    """As much of a driver as the surroundings need."""


def test_shim_reports_and_is_limited() -> None:
    with containers.world(lambda context: Nothing()) as world:  # type: ignore[arg-type, return-value]
        assert world.in_shim(os.getpid) != os.getpid()
        with pytest.raises(pytest.fail.Exception, match="ZeroDivisionError"):
            world.in_shim(lambda: 1 / 0)
        with pytest.raises(pytest.fail.Exception, match="did not answer"):
            world.in_shim(lambda: time.sleep(10), limit=0.1)
        assert world.in_shim(lambda: os.kill(os.getpid(), signal.SIGKILL), die=True) is None
        with pytest.raises(pytest.fail.Exception, match="no answer"):
            world.in_shim(lambda: os.kill(os.getpid(), signal.SIGKILL))
        assert world.remains() == []


def test_remains_finds_processes() -> None:
    with containers.world(lambda context: Nothing()) as world:  # type: ignore[arg-type, return-value]
        pid = os.fork()
        if pid == 0:
            os.chroot(world.image)
            time.sleep(60)
        deadline = time.monotonic() + 2
        while not world.remains() and time.monotonic() < deadline:
            time.sleep(0.01)
        assert world.remains() == [f"process {pid}"]
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
