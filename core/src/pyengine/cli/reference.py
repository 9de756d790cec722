"""Image references as people write them (github.com/distribution/reference has the grammar)."""

from __future__ import annotations

import re

_DOMAIN = (
    r"(?:[a-zA-Z0-9](?:[a-zA-Z0-9-]*[a-zA-Z0-9])?\.?)+(?::[0-9]+)?|\[[a-fA-F0-9:]+\](?::[0-9]+)?"
)
_PART = r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"(?:(?:{_DOMAIN})/)?{_PART}(?:/{_PART})*")
_TAG = re.compile(r"\w[\w.-]{0,127}")
_DIGEST = re.compile(r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}")
_BAD = "invalid reference format"


def split(image: str) -> tuple[str, str]:
    """Name, and tag or digest; the second is empty where there is none."""
    name, at, digest = image.partition("@")
    if at:
        return name, digest
    name, colon, tag = image.rpartition(":")
    return (name, tag) if colon and "/" not in tag else (image, "")


def normalize(name: str) -> str:
    """The full name, with registry: ``busybox`` is ``docker.io/library/busybox``."""
    first, slash, rest = name.partition("/")
    if not slash or not (
        "." in first or ":" in first or first == "localhost" or first != first.lower()
    ):
        first, rest = "docker.io", name
    if first == "docker.io" and "/" not in rest:
        rest = "library/" + rest
    return f"{first}/{rest}"


def familiar(image: str) -> str:
    """The short form, with ``latest`` where neither tag nor digest is given."""
    image = image.removeprefix("docker.io/").removeprefix("library/")
    return image if split(image)[1] else image + ":latest"


def check(image: str) -> None:
    """ValueError with Docker's words for what is no reference; ids are references too."""
    if re.fullmatch(r"(sha256:)?[0-9a-f]{64}", image):
        return
    name, label = split(image)
    name, tag = split(name) if "@" in image else (name, "")
    full = normalize(name)
    remote = full.partition("/")[2]
    if remote != remote.lower():
        raise ValueError(f"{_BAD}: repository name ({remote}) must be lowercase")
    if not _NAME.fullmatch(full):
        raise ValueError(_BAD)
    if "@" in image:
        valid = bool(_DIGEST.fullmatch(label)) and (not tag or bool(_TAG.fullmatch(tag)))
    else:
        valid = bool(_TAG.fullmatch(label)) if label else not image.endswith(":")
    if not valid:
        raise ValueError(_BAD)
