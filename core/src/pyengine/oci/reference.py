"""Image references: ``alpine``, ``ghcr.io/owner/name:tag``, ``name@sha256:...``.

The grammar and the normalisation are those of Docker's clients and registries
(https://pkg.go.dev/github.com/distribution/reference): a name without a domain is on docker.io, and
a single component there lies in ``library/``.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from pyengine.errors import InvalidParameter

DEFAULT_DOMAIN = "docker.io"
DEFAULT_TAG = "latest"

_LABEL = r"(?:[a-zA-Z0-9]|[a-zA-Z0-9][a-zA-Z0-9-]*[a-zA-Z0-9])"
_HOST = rf"(?:{_LABEL}(?:\.{_LABEL})*|\[[a-fA-F0-9:]+\])(?::[0-9]+)?"
_COMPONENT = r"[a-z0-9]+(?:(?:[._]|__|-+)[a-z0-9]+)*"
_PATH = rf"{_COMPONENT}(?:/{_COMPONENT})*"
_TAG = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,127}"
_DIGEST = r"[A-Za-z][A-Za-z0-9]*(?:[-_+.][A-Za-z][A-Za-z0-9]*)*:[0-9a-fA-F]{32,}"
_REFERENCE = re.compile(rf"({_HOST})/({_PATH})(?::({_TAG}))?(?:@({_DIGEST}))?")
_SHA256 = re.compile(r"sha256:[0-9a-f]{64}")
_HEX = re.compile(r"[0-9a-f]{64}")


class Reference(NamedTuple):
    """A normalised reference; ``tag`` and ``digest`` may be empty."""

    domain: str
    path: str
    tag: str = ""
    digest: str = ""

    @property
    def name(self) -> str:
        """``docker.io/library/alpine``."""
        return f"{self.domain}/{self.path}"

    @property
    def familiar_name(self) -> str:
        """``alpine``: the name as users of docker.io write it."""
        if self.domain != DEFAULT_DOMAIN:
            return self.name
        return self.path.removeprefix("library/") if self.path.count("/") == 1 else self.path

    def _suffix(self) -> str:
        tag = f":{self.tag}" if self.tag else ""
        return f"{tag}@{self.digest}" if self.digest else tag

    def __str__(self) -> str:
        return self.name + self._suffix()

    @property
    def familiar(self) -> str:
        """``alpine:latest``: as clients show it."""
        return self.familiar_name + self._suffix()

    def with_default_tag(self) -> Reference:
        """Itself, or with tag ``latest`` if it is a bare name."""
        return self if self.tag or self.digest else self._replace(tag=DEFAULT_TAG)


def parse(text: str) -> Reference:
    """Normalise ``text``. ``InvalidParameter`` in Docker's words if it is no reference."""
    if _HEX.fullmatch(text):
        raise InvalidParameter(
            f"invalid repository name ({text}), cannot specify 64-byte hexadecimal strings"
        )
    domain, rest = _split_domain(text)
    name = rest.partition(":")[0]
    if name.lower() != name:
        raise InvalidParameter(
            f"invalid reference format: repository name ({name}) must be lowercase"
        )
    match = _REFERENCE.fullmatch(f"{domain}/{rest}")
    if not match:
        raise InvalidParameter("invalid reference format")
    if len(match[2]) > 255:
        raise InvalidParameter("repository name must not be more than 255 characters")
    digest = match[4] or ""
    if digest and digest.startswith("sha256:") and not _SHA256.fullmatch(digest):
        raise InvalidParameter("invalid checksum digest length")
    return Reference(match[1], match[2], match[3] or "", digest)


def with_tag(reference: Reference, tag: str) -> Reference:
    """``reference`` with another tag; ``InvalidParameter`` if ``tag`` is none."""
    if not re.fullmatch(_TAG, tag):
        raise InvalidParameter("invalid tag format")
    return reference._replace(tag=tag, digest="")


def new_name(reference: Reference) -> Reference:
    """``reference`` as an image may be called from now on: with a tag. ``InvalidParameter`` for one
    that would be taken for a digest."""
    if reference.familiar_name == "sha256":
        raise InvalidParameter("refusing to create an ambiguous tag using digest algorithm as name")
    return reference.with_default_tag()


def digest_of(text: str) -> str:
    """``sha256:<hex>`` if ``text`` is a whole digest or image id, else ``""``."""
    if _HEX.fullmatch(text):
        return "sha256:" + text
    return text if _SHA256.fullmatch(text) else ""


def _split_domain(text: str) -> tuple[str, str]:
    first, slash, rest = text.partition("/")
    if not slash:
        return DEFAULT_DOMAIN, "library/" + text
    if first == "index.docker.io":
        first = DEFAULT_DOMAIN
    elif first != "localhost" and not set(first) & set(".:") and first.lower() == first:
        first, rest = DEFAULT_DOMAIN, text
    if first == DEFAULT_DOMAIN and "/" not in rest:
        rest = "library/" + rest
    return first, rest
