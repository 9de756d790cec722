"""Platforms as people write them: ``os[/arch[/variant]]``, as ``linux/arm64/v8``."""

from __future__ import annotations

import os
import re

from pyengine.cli.client import CommandError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from pyengine.cli.flags import Options

_COMPONENT = re.compile(r"[A-Za-z0-9_.-]+")


def wanted(options: Options) -> str:
    """``--platform`` of commands that bring an image in, which the environment can set for all."""
    if "platform" in options.changed:
        return str(options["platform"])
    return os.environ.get("DOCKER_DEFAULT_PLATFORM", "")


def parse(text: str) -> dict[str, Any]:
    """The API's object of a platform, empty for no text; CommandError for what is none.

    The API takes objects since 1.46; what an older parameter takes is the text itself.
    """
    if not text:
        return {}
    parts = text.split("/")
    if len(parts) > 3 or not all(_COMPONENT.fullmatch(part) for part in parts):
        raise CommandError(
            f'"{text}": invalid platform: a platform is os[/arch[/variant]], as linux/arm64/v8'
        )
    if len(parts) == 1:
        raise CommandError(f'"{text}": unknown operating system or architecture: give both')
    return dict(zip(("os", "architecture", "variant"), parts, strict=False))
