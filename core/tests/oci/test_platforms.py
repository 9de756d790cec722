"""The choice among the images of an index."""

from __future__ import annotations

import pytest

from pyengine.errors import InvalidParameter
from pyengine.oci import platforms
from pyengine.oci.image import Descriptor, Platform, parse_platform


def platform(text: str) -> Platform:
    os, architecture, variant = (text + "//").split("/")[:3]
    return Platform(os=os, architecture=architecture, variant=variant)


def chosen(wanted: str, *available: str) -> list[str]:
    entries = [
        Descriptor(digest=text, platform=platform(text) if text != "none" else None)
        for text in available
    ]
    return [entry.digest for entry in platforms.choose(entries, platform(wanted))]


@pytest.mark.parametrize(
    ("wanted", "available", "expected"),
    [
        ("linux/amd64", ["linux/arm64", "linux/amd64"], ["linux/amd64"]),
        ("linux/amd64", ["linux/amd64/v2", "linux/amd64"], ["linux/amd64"]),
        ("linux/amd64/v3", ["linux/amd64", "linux/amd64/v2", "linux/amd64/v4"],
         ["linux/amd64/v2", "linux/amd64"]),
        ("linux/amd64", ["linux/386"], ["linux/386"]),
        ("linux/386", ["linux/amd64"], []),
        ("linux/arm/v7", ["linux/arm/v5", "linux/arm/v6", "linux/arm/v8"],
         ["linux/arm/v6", "linux/arm/v5"]),
        ("linux/arm", ["linux/arm/v6", "linux/arm/v7"], ["linux/arm/v7", "linux/arm/v6"]),
        ("linux/arm/v6", ["linux/arm/v7"], []),
        ("linux/arm64", ["linux/arm/v7", "linux/arm64/v8"], ["linux/arm64/v8", "linux/arm/v7"]),
        ("linux/arm64/v8", ["linux/arm64"], ["linux/arm64"]),
        ("linux/amd64", ["windows/amd64", "unknown/unknown"], []),
        ("linux/amd64", ["none", "linux/amd64"], ["linux/amd64", "none"]),
        ("linux/riscv64/rva23", ["linux/riscv64", "linux/riscv64/rva23"], ["linux/riscv64/rva23"]),
        ("linux/s390x", ["linux/s390x"], ["linux/s390x"]),
    ],
)  # fmt: skip
def test_the_nearest_variant_comes_first(
    wanted: str, available: list[str], expected: list[str]
) -> None:
    assert chosen(wanted, *available) == expected


def test_an_image_without_a_variant_serves_every_variant_of_its_architecture() -> None:
    assert platforms.runs(platform("linux/arm"), platform("linux/arm/v6"))
    assert not platforms.runs(platform("linux/arm/v7"), platform("linux/arm/v6"))
    assert not platforms.runs(platform("linux/arm64"), platform("linux/amd64"))


def test_what_runs_is_not_always_what_was_asked_for() -> None:
    assert platforms.runs(platform("linux/arm/v6"), platform("linux/arm/v7"))
    assert not platforms.same(platform("linux/arm/v6"), platform("linux/arm/v7"))
    assert platforms.same(platform("linux/arm64"), platform("linux/arm64/v8"))
    assert platforms.same(platform("linux"), platform("linux/amd64"))
    assert not platforms.same(platform("windows"), platform("linux/amd64"))


def test_this_machine_prefers_the_highest_level_that_it_has() -> None:
    best = platforms.best_host_platform()
    entries = [Descriptor(digest=str(best), platform=best)]
    assert platforms.choose(entries, None) == entries


@pytest.mark.parametrize(
    ("text", "platform"),
    [
        ("linux/amd64", ("linux", "amd64", "")),
        ("linux/ARM/v7", ("linux", "arm", "v7")),
        ("aarch64", ("linux", "arm64", "")),
        ("windows/x86_64", ("windows", "amd64", "")),
        ("beos/z80", ("beos", "z80", "")),
        ("macos/arm64", ("darwin", "arm64", "")),
    ],
)
def test_names_of_platforms(text: str, platform: tuple[str, str, str]) -> None:
    found = parse_platform(text)
    assert (found.os, found.architecture, found.variant) == platform


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense", '"nonsense": unknown operating system or architecture: invalid argument'),
        ("linux/a/b/c", '"linux/a/b/c": cannot parse platform specifier: invalid argument'),
        ("linux/", '"" is an invalid component of "linux/": .*: invalid argument'),
        ("a!/b", '"a!" is an invalid OS component of "a!/b": .*: invalid argument'),
    ],
)
def test_what_is_no_platform(text: str, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        parse_platform(text)
