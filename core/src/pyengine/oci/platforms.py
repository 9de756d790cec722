"""Which of an index's images runs where: variants of processors, and what else they run.

The order of preference is that of Docker's clients (https://pkg.go.dev/github.com/containerd/
platforms, ``Only``): the variant itself, then older ones, then the 32-bit sibling.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from pyengine.oci.image import Descriptor, Platform, host_platform

_ALIASES = {
    "x86_64": "amd64",
    "x86-64": "amd64",
    "aarch64": "arm64",
    "i386": "386",
    "armhf": "arm",
    "armel": "arm",
}
#: The oldest variant of each, and the one meant by none.
_OLDEST = {"amd64": 1, "arm": 5, "arm64": 8}
_DEFAULT = {"amd64": 1, "arm": 7, "arm64": 8}
_SIBLING = {"amd64": ("386", 0), "arm64": ("arm", 8)}

#: What a processor must have for each level above the first (System V ABI, "micro-architecture
#: levels"), by the kernel's names.
_LEVELS = (
    {"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"},
    {"avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe", "xsave"},
    {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
)


def choose(entries: Sequence[Descriptor], wanted: Platform | None) -> list[Descriptor]:
    """Those of an index's ``entries`` that run on ``wanted`` (this machine: None), best first.

    An entry that says nothing of its platform runs anywhere, but is nobody's first choice.
    """
    order = preferences(wanted or best_host_platform())
    ranked = []
    for entry in entries:
        key = _key(entry.platform) if entry.platform else None
        if key is None or not key[1]:
            ranked.append((len(order), entry))
        elif key in order:
            ranked.append((order.index(key), entry))
    ranked.sort(key=lambda pair: pair[0])
    return [entry for _, entry in ranked]


def runs(image: Platform, wanted: Platform) -> bool:
    """True if an image made for ``image`` is one that somebody who asks for ``wanted`` may mean;
    images often leave their variant out."""
    return same(image, wanted) or _key(image) in preferences(wanted)


def same(image: Platform, wanted: Platform) -> bool:
    """True if ``image`` is made for ``wanted`` as far as it says."""
    mine, theirs = _key(image), _key(wanted)
    if not image.architecture:
        return mine[0] == theirs[0]
    return mine == theirs or (not image.variant and mine[:2] == theirs[:2])


def preferences(wanted: Platform) -> list[tuple[str, str, int]]:
    """What ``wanted`` runs, best first: operating system, architecture, variant's number."""
    os, architecture, variant = _key(wanted)
    found = [(os, architecture, variant)]
    while True:
        oldest = _OLDEST.get(architecture, variant)
        found += [(os, architecture, older) for older in range(variant - 1, oldest - 1, -1)]
        if architecture not in _SIBLING:
            return found
        architecture, variant = _SIBLING[architecture]
        found.append((os, architecture, variant))


@cache
def best_host_platform() -> Platform:
    """Of this machine, with the level of its processor where that has a name (``amd64/v3``)."""
    platform = host_platform()
    if platform.architecture != "amd64":
        return platform
    level = 1
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("flags"):
            flags = set(line.partition(":")[2].split())
            while level <= len(_LEVELS) and _LEVELS[level - 1] <= flags:
                level += 1
            break
    return Platform(os=platform.os, architecture="amd64", variant=f"v{level}")


def _key(platform: Platform) -> tuple[str, str, int]:
    """Variants as numbers, which an unknown one has below zero: it is equal to itself alone."""
    name = platform.architecture.lower()
    architecture = _ALIASES.get(name, name)
    variant = platform.variant.lower().removeprefix("v")
    if name == "armel" and not variant:
        variant = "6"
    if not variant:
        number = _DEFAULT.get(architecture, 0)
    elif variant.isdigit():
        number = int(variant)
    else:
        number = -1 - int.from_bytes(variant.encode(), "big")
    return platform.os.lower() or "linux", architecture, number
