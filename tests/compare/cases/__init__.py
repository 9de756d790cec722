"""The cases: what an ordinary user of docker types, and what programs ask of the API.

Names begin with `cmp-`; the image `compare` is busybox with CMD ["sh"] and ENV COLOUR=green. Every
file beside this one is read: a new one need not be named anywhere.
"""

from __future__ import annotations

import importlib
import pkgutil

from tests.compare.cases.common import CASES

for _module in sorted(found.name for found in pkgutil.iter_modules(__path__)):
    importlib.import_module(f"{__name__}.{_module}")

__all__ = ["CASES"]
