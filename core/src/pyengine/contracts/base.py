"""What every driver has, whatever its kind."""

from __future__ import annotations

import enum
from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import msgspec

from pyengine.errors import InvalidParameter


class Kind(enum.StrEnum):
    """The kinds of driver. The entry-point group of a kind is ``pyengine.<value>``."""

    STORAGE = "storage"
    NETWORK = "network"
    IPAM = "ipam"
    FIREWALL = "firewall"
    RUNTIME = "runtime"
    LOGGING = "logging"
    VOLUME = "volume"
    SECURITY = "security"


class Probe(msgspec.Struct, frozen=True):
    """What a driver found out about this host.

    ``reason`` says in one sentence why it is not available, ``help`` what would change that.
    ``details`` are facts for ``docker info`` (for example ``{"Backing Filesystem": "extfs"}``).
    """

    available: bool
    reason: str = ""
    help: str = ""
    details: dict[str, str] = {}


class DriverContext(msgspec.Struct, frozen=True):
    """Where a driver instance lives. Two engines on one host have different contexts.

    ``root``
        the driver's own directory under the data root; survives a reboot. May not exist yet.
    ``run``
        its own directory under the exec root; lost at a reboot. May not exist yet.
    ``engine_id``
        tag of every kernel object the driver makes.
    ``prefix``
        what names of kernel objects begin with: ``pyengine`` for the engine of the default data
        root, ``pe`` and six hexadecimal digits of the engine id for any other. At most 8 bytes.
    ``options``
        the operator's options for this driver, as strings (``max-size`` -> ``20m``).
    """

    engine_id: str
    prefix: str
    root: Path
    run: Path
    options: Mapping[str, str] = {}


class Reconciled(msgspec.Struct):
    """What :meth:`Driver.reconcile` did: one sentence per object removed or made again."""

    removed: list[str] = []
    restored: list[str] = []
    failed: list[str] = []


class Driver(ABC):
    """Root of all contracts.

    A driver's module is imported when the driver is chosen or probed, never before. Importing it
    starts no thread and no process and opens nothing. Construction validates ``context.options``
    (``InvalidParameter`` naming the option) and touches neither disk nor kernel.

    Unless its contract says otherwise, methods are plain blocking functions, called on daemon
    threads, several at a time for different objects and never two at a time for one object. Each
    call has a deadline; a driver that misses it is *wedged* and gets no more calls until a probe
    succeeds. What a method raises from :mod:`pyengine.errors` reaches the user as it is; anything
    else becomes ``DriverBroken`` naming the driver.

    A driver keeps nothing that it could not rebuild from ``context.root`` and ``reconcile``. All
    methods that make something are idempotent: making it again with the same arguments succeeds.
    All that remove something accept that it is gone already.
    """

    kind: ClassVar[Kind]
    name: ClassVar[str]
    #: Order of choice when nobody chose: the highest that is available wins. Built-in drivers
    #: count from 100 down; others should stay at 50.
    priority: ClassVar[int] = 50
    #: Version of the contract that the driver was written for, as ``major.minor``.
    contract: ClassVar[str] = "1.0"
    #: The driver's directory under the data root (``context.root``), where Docker's layout or the
    #: driver's own history wants a certain one; empty: ``<kind>/<name>``.
    directory: ClassVar[str] = ""
    #: Docker's keys of daemon.json that are this driver's own, and the option that each becomes.
    #: Since contract 1.1.
    keys: ClassVar[Mapping[str, str]] = {}

    def __init__(self, context: DriverContext) -> None:
        self.context = context

    @classmethod
    @abstractmethod
    def probe(cls, context: DriverContext) -> Probe:
        """Say whether this driver can work on this host. Leaves nothing behind.

        Called in a child process with a time limit for ``pyengine drivers``, and in the daemon for
        the chosen driver. Never raises for a missing kernel feature or program: that is an answer.
        """

    def check(self) -> None:
        """Look at what the options name, a file for example: ``InvalidParameter`` or
        ``ConfigError`` naming what is wrong with it.

        Called before the engine starts and by ``pyengine daemon --validate``, which may run without
        privileges and beside a daemon: it reads, and neither makes nor changes anything. Since
        contract 1.2.
        """

    def reconfigure(self, options: Mapping[str, str]) -> bool:
        """Docker's keys that are this driver's own (``keys``) say something else while the engine
        runs: ``options`` is what ``context.options`` would be. True: from now on they count; False,
        as here: from the next start on. A security plugin is asked anew which hooks it implements.
        Called on the event loop: it may not wait. Since contract 1.2.
        """
        return False

    def rehearse(self, directory: Path) -> None:
        """Run, without a container, what this driver does in every container's shim.

        Only drivers that live in shims are asked. Called some ten times in the process that shims
        are forked from: what the interpreter adapts and caches there is shared by all shims, and
        costs each of them memory otherwise. ``directory`` is empty at the first call and goes after
        the last; nothing else is touched, started or kept open. What it raises ends it, no more.
        """

    def close(self) -> None:
        """Let go of descriptors and threads. Objects stay. No other call follows."""


def reject_unknown_options(
    kind: Kind, name: str, options: Mapping[str, Any], known: frozenset[str]
) -> None:
    """Raise ``InvalidParameter`` if ``options`` holds a key outside ``known``."""
    unknown = sorted(set(options) - known)
    if unknown:
        raise InvalidParameter(
            f"unknown option {unknown[0]!r} for {kind.value} driver {name!r}",
            help="it knows " + (", ".join(sorted(known)) or "no options"),
        )
