"""What differs between two engines' answers, and which of it is accepted."""

from __future__ import annotations

import difflib
import json
import re
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.compare.normalise import leaves
from tests.compare.runner import Answers

ACCEPTED = Path(__file__).with_name("accepted.toml")
ABSENT = "(absent)"


@dataclass(frozen=True)
class Difference:
    case: str
    at: str
    peer: str
    ours: str

    def __str__(self) -> str:
        if "\n" in self.peer.strip() and "\n" in self.ours.strip():
            lines = difflib.unified_diff(
                self.peer.splitlines(), self.ours.splitlines(), "dockerd", "pyengine", "", "", 1, ""
            )
            return "\n    ".join((f"[{self.case}] {self.at}", *lines))
        return f"[{self.case}] {self.at}\n    dockerd: {self.peer}\n    pyengine: {self.ours}"


@dataclass(frozen=True)
class Accepted:
    """A difference that stays, with its reason. ``*`` in a pattern stands for anything.

    With ``host`` it holds only where that fact of the host differs from the recording's.
    """

    case: str
    at: str
    reason: str
    peer: str = "*"
    ours: str = "*"
    host: str = ""

    def covers(self, difference: Difference) -> bool:
        return (
            _matches(self.case, difference.case)
            and _matches(self.at, difference.at)
            and _matches(self.peer, difference.peer)
            and _matches(self.ours, difference.ours)
        )


def accepted(path: Path = ACCEPTED) -> list[Accepted]:
    return [Accepted(**entry) for entry in tomllib.loads(path.read_text())["difference"]]


def between(case: str, peer: Answers, ours: Answers) -> list[Difference]:
    """Every leaf that is not the same on both sides."""
    found = []
    for label in dict.fromkeys([*peer, *ours]):
        left, right = leaves(peer.get(label, {})), leaves(ours.get(label, {}))
        for path in dict.fromkeys([*left, *right]):
            a, b = left.get(path, ABSENT), right.get(path, ABSENT)
            if a != b or type(a) is not type(b):
                found.append(Difference(case, f"{label} > {path}", _shown(a), _shown(b)))
    return found


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _matches(pattern: str, value: str) -> bool:
    expression = ".*".join(re.escape(part) for part in pattern.split("*"))
    return re.fullmatch(expression, value, re.DOTALL) is not None
