"""Ids and names."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from typing import TypeVar

from pyengine.errors import InvalidParameter, NotFound

T = TypeVar("T")

NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.-]+")
ID = re.compile(r"[0-9a-f]{64}")

_MOODS = """
agile amber ample apt astute balmy bold brave breezy bright brisk calm candid careful cheery civil
clear clever cosy crisp curious daring deft dapper eager early earnest easy fair fearless festive
fine firm fleet fluent fond frank free fresh gallant gentle gifted glad golden good grand great
handy happy hardy hearty honest humble ideal jolly jovial joyful keen kind large lively loyal lucid
lucky mellow merry mild modest neat nimble noble open patient placid plucky polite prime prompt
proud quick quiet ready robust rosy serene sharp shiny silent simple sleek smart smooth snug solid
sound spry steady sturdy sunny swift tidy tranquil trim true upbeat valiant vivid warm wise witty
"""
_PEOPLE = """
abbe allen aho backus bartik berners booth cerf church clarke codd cook corbato curry dahl dijkstra
easley engelbart feinler floyd gray goldberg hamilton hamming hoare holberton hopper iverson jones
kahan karp kay kernighan kildall knuth kolmogorov lamport lampson liskov lovelace mauchly mccarthy
milner minsky moore naur neumann newell nygaard perlis perlman pike rabin ritchie rivest sammet
scott shannon simon stallman strachey sutherland tarjan thompson torvalds turing vaughan wilkes
wilkinson wirth yao zuse
"""
MOODS = _MOODS.split()
PEOPLE = _PEOPLE.split()


def new_id() -> str:
    """64 hex digits whose first twelve are not all decimal (they would read as a number)."""
    while True:
        id = secrets.token_hex(32)
        if not id[:12].isdecimal():
            return id


def random_name(taken: Callable[[str], bool]) -> str:
    """A name for a container that nobody named."""
    for _ in range(6):
        name = f"{secrets.choice(MOODS)}_{secrets.choice(PEOPLE)}"
        if not taken(name):
            return name
    return f"{secrets.choice(MOODS)}_{secrets.choice(PEOPLE)}{secrets.randbelow(10**6)}"


def check_name(name: str) -> str:
    """``name`` without a leading slash, or ``InvalidParameter`` in Docker's words."""
    bare = name.removeprefix("/")
    if not NAME.fullmatch(bare):
        raise InvalidParameter(
            f"Invalid container name ({name}), only {'[a-zA-Z0-9][a-zA-Z0-9_.-]'} are allowed"
        )
    return bare


def resolve(ref: str, by_id: dict[str, T], by_name: Callable[[str], T | None], what: str) -> T:
    """The object that ``ref`` means: a full id, a name, or an unambiguous beginning of an id.

    ``NotFound`` in Docker's words: ``No such <what>: <ref>``; ``InvalidParameter`` for nothing.
    """
    if not ref:
        raise InvalidParameter('invalid name or ID supplied: ""')
    found = by_id.get(ref) or by_name(ref)
    if found is not None:
        return found
    matches = [id for id in by_id if id.startswith(ref)]
    if len(matches) == 1:
        return by_id[matches[0]]
    if len(matches) > 1:
        raise InvalidParameter(
            f"multiple IDs found with provided prefix: {ref}",
            help="give more digits of the id",
        )
    raise NotFound(f"No such {what}: {ref}")
