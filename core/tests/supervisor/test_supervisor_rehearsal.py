"""The zygote's rehearsal: it plays to the end, and leaves nothing."""

from __future__ import annotations

import gc
import itertools
import os
import sys
from pathlib import Path

from pyengine.contracts.base import Driver, Probe
from pyengine.supervisor import rehearsal


def descriptors() -> list[str]:
    gc.collect()
    return sorted(os.listdir("/proc/self/fd"))


def test_a_play_runs_to_its_end_and_leaves_nothing_open(tmp_path):
    rehearsal.play(str(tmp_path))
    before = descriptors()
    rehearsal.play(str(tmp_path))
    assert descriptors() == before
    assert not os.listdir(tmp_path)


class Rehearsing(Driver):
    name = "rehearsing"

    def __init__(self) -> None:
        self.seen: list[list[str]] = []

    @classmethod
    def probe(cls, context):
        return Probe(True)

    def rehearse(self, directory: Path) -> None:
        self.seen.append(os.listdir(directory))
        (directory / "below").mkdir(exist_ok=True)
        (directory / "below" / "file").touch()


class Failing(Rehearsing):
    def rehearse(self, directory: Path) -> None:
        super().rehearse(directory)
        raise RuntimeError("no rehearsal")


def test_drivers_begin_with_an_empty_directory_and_may_fail(tmp_path):
    failing, good = Failing(), Rehearsing()
    rehearsal.rehearse([failing, good], str(tmp_path / "r"))
    assert failing.seen == [[]]
    assert good.seen == [[]] + [["below"]] * (rehearsal.ROUNDS - 1)
    assert not (tmp_path / "r").exists()


def test_gaps_are_filled():
    """New objects come to lie behind each other once nothing between the old ones is free."""
    kept = [bytes(467) for _ in range(2000)]
    del kept[::2]
    rehearsal.fill_gaps()
    size = sys.getsizeof(bytes(467))
    places = [id(new) for new in [bytes(467) for _ in range(16)]]
    steps = [b - a for a, b in itertools.pairwise(places)]
    assert sum(abs(step) <= size + 12 for step in steps) >= 12
