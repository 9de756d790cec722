"""Finding, choosing, loading and probing drivers.

Discovery reads the metadata of installed distributions and imports nothing. A driver is imported
when it is chosen, by stevedore, on a thread with a deadline; ``pyengine drivers`` probes every one
in a child process of its own, so what is broken, hangs or kills its process is a line in a table.
"""

from __future__ import annotations

import importlib.metadata
import logging
import os
import re
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
from stevedore.driver import DriverManager

from pyengine.contracts.base import Driver, DriverContext, Kind, Probe
from pyengine.errors import (
    DriverBroken,
    DriverDuplicate,
    DriverMissing,
    DriverUnavailable,
    EngineError,
    InvalidParameter,
)

log = logging.getLogger(__name__)

IMPORT_DEADLINE = 10.0
PROBE_DEADLINE = 10.0

#: Names of the engine's own threads, which may begin while a driver is imported.
_OWN = re.compile(rf"(?:{'|'.join(Kind)})\..*-\d+|(?:asyncio|images)_\d+|volume-copy|import-.*")

#: How the packages of a kind are called, by convention: what to suggest when one is missing.
PACKAGE_PREFIX = {Kind.NETWORK: "net", Kind.LOGGING: "log"}


class Installed(msgspec.Struct, frozen=True):
    """One entry point of a driver group, as metadata has it."""

    kind: Kind
    name: str
    target: str
    package: str
    version: str

    @property
    def entry_point(self) -> importlib.metadata.EntryPoint:
        return importlib.metadata.EntryPoint(self.name, self.target, group(self.kind))


class DriverStatus(msgspec.Struct):
    """A line of ``pyengine drivers``. ``chosen``: this engine's default of its kind."""

    kind: str
    name: str
    package: str
    version: str
    available: bool
    chosen: bool = False
    reason: str = ""
    help: str = ""


def group(kind: Kind) -> str:
    """The entry-point group of a kind."""
    return f"pyengine.{kind.value}"


def discover() -> dict[str, list[importlib.metadata.EntryPoint]]:
    """Entry points of all groups of pyengine, from metadata alone; fresh each call."""
    found: dict[str, list[importlib.metadata.EntryPoint]] = {}
    seen: set[str] = set()
    for distribution in importlib.metadata.distributions():
        # Parsing the metadata of everything that is installed would take a tenth of a second.
        if "[pyengine." not in (distribution.read_text("entry_points.txt") or ""):
            continue
        name = re.sub(r"[-_.]+", "-", distribution.metadata["Name"] or "").lower()
        if name in seen:
            continue
        seen.add(name)
        # Of several copies on sys.path the first, which is the one that Python would import.
        for entry in importlib.metadata.distribution(name).entry_points:
            if entry.group.startswith("pyengine."):
                found.setdefault(entry.group, []).append(entry)
    return found


class Catalog:
    """What is installed, by kind and name. Made once per daemon start."""

    def __init__(self) -> None:
        self._installed: dict[tuple[Kind, str], list[Installed]] = {}
        self._broken: dict[Installed, DriverBroken] = {}
        self._entries = discover()
        groups = {group(kind): kind for kind in Kind}
        for name in groups.keys() & self._entries.keys():
            for entry in self._entries[name]:
                distribution = entry.dist
                item = Installed(
                    kind=groups[name],
                    name=entry.name,
                    target=entry.value,
                    package=distribution.metadata["Name"] if distribution else "?",
                    version=distribution.version if distribution else "?",
                )
                self._installed.setdefault((item.kind, item.name), []).append(item)

    def entries(self, group: str) -> list[importlib.metadata.EntryPoint]:
        """The entry points of a group that is no kind of driver: ``pyengine.api``..."""
        return self._entries.get(group, [])

    def names(self, kind: Kind) -> list[str]:
        return sorted(name for k, name in self._installed if k is kind)

    def all(self) -> list[Installed]:
        return sorted(
            (item for items in self._installed.values() for item in items),
            key=lambda item: (list(Kind).index(item.kind), item.name, item.package),
        )

    def find(self, kind: Kind, name: str) -> Installed:
        """The one driver of that kind and name, or ``DriverMissing`` / ``DriverDuplicate``."""
        items = self._installed.get((kind, name), [])
        if not items:
            installed = ", ".join(self.names(kind)) or "none"
            package = f"pyengine-{PACKAGE_PREFIX.get(kind, kind.value)}-{name}"
            raise DriverMissing(
                f"no {kind.value} driver {name!r} is installed",
                f"installed: {installed}",
                f"if a package provides it, install that: pip install {package}",
            )
        if len(items) > 1:
            packages = ", ".join(f"{item.package} {item.version}" for item in items)
            raise DriverDuplicate(
                f"{kind.value} driver {name!r} is provided by more than one package",
                packages,
                f"uninstall all but one: pip uninstall {items[-1].package}",
            )
        return items[0]

    def load(self, kind: Kind, name: str, deadline: float = IMPORT_DEADLINE) -> type[Driver]:
        """Import a driver's class.

        Raises ``DriverBroken`` when its import fails, takes longer than ``deadline`` seconds or
        starts a thread, or when what it names is not a driver of that kind. One that is broken
        stays so, since waiting for one that hangs takes long.
        """
        item = self.find(kind, name)
        if item in self._broken:
            raise self._broken[item]
        try:
            return load_class(item, deadline)
        except DriverBroken as error:
            self._broken[item] = error
            raise


def load_class(item: Installed, deadline: float = IMPORT_DEADLINE) -> type[Driver]:
    """As :meth:`Catalog.load`, for a known entry point."""
    label = f"{item.kind.value} driver {item.name!r}"
    source = f"package {item.package} {item.version}"
    found = import_here(lambda: _Loader(item).driver, label, source, item.package, deadline)
    if not (isinstance(found, type) and issubclass(found, Driver) and found.kind is item.kind):
        raise DriverBroken(
            f"{label} is not a {item.kind.value} driver",
            f"{source}: {item.target} is {found!r}",
            "its entry point must name a subclass of the contract",
        )
    missing = sorted(getattr(found, "__abstractmethods__", ()))
    if missing:
        raise DriverBroken(
            f"{label} does not implement its contract",
            f"{source}: missing {', '.join(missing)}",
            "it may have been written for another version: upgrade it",
        )
    return found


def import_here(
    load: Callable[[], Any], label: str, source: str, package: str, deadline: float
) -> Any:
    """What ``load`` gives, on a thread with a deadline; ``DriverBroken`` if it raises, hangs or
    leaves a thread behind."""
    outcome: list[Any] = []

    def work() -> None:
        try:
            outcome.append((load(), None))
        except BaseException as error:
            outcome.append((None, error))

    before = set(threading.enumerate())
    thread = threading.Thread(target=work, name=f"import-{package}", daemon=True)
    thread.start()
    thread.join(deadline)
    if not outcome:
        raise DriverBroken(
            f"{label} hangs while it is imported",
            f"{source} did not finish within {deadline:g} s",
            f"uninstall it, or choose another: pip uninstall {package}",
        )
    found, error = outcome[0]
    if error is not None:
        raise DriverBroken(
            f"{label} cannot be imported",
            f"{source}: {type(error).__name__}: {error}",
            f"reinstall it: pip install --force-reinstall {package}",
        ) from error
    new = [t for t in threading.enumerate() if t not in before and t is not thread]
    started = [t for t in new if not _OWN.fullmatch(t.name)]
    if started:
        raise DriverBroken(
            f"{label} starts a thread while it is imported",
            f"{source}: {started[0].name}",
            "a driver must do nothing at import: this is a defect of the package",
        )
    return found


def load_hooks(catalog: Catalog, deadline: float = IMPORT_DEADLINE) -> list[tuple[str, object]]:
    """Name and instance of every hook plugin in ``catalog`` (group ``pyengine.hooks``; an entry
    point names a class that needs no arguments).

    All of them take part, so one that cannot is an error of the engine (``DriverBroken``): it might
    be the one that refuses requests.
    """
    plugins = []
    for entry in catalog.entries("pyengine.hooks"):
        package = entry.dist.metadata["Name"] if entry.dist else "?"
        source = f"package {package} {entry.dist.version if entry.dist else '?'}"
        label = f"hook plugin {entry.name!r}"
        plugin = import_here(partial(_instance, entry), label, source, package, deadline)
        plugins.append((entry.name, plugin))
    return plugins


def _instance(entry: importlib.metadata.EntryPoint) -> object:
    return entry.load()()


class _Loader(DriverManager):  # type: ignore[type-arg]
    """stevedore, told which entry point: its own scan would go through a cache in the home
    directory and could not say which package an entry point belongs to."""

    def __init__(self, item: Installed) -> None:
        self._entry = item.entry_point
        super().__init__(namespace=group(item.kind), name=item.name, invoke_on_load=False)

    def list_entry_points(self) -> list[importlib.metadata.EntryPoint]:
        return [self._entry]


class Places(msgspec.Struct, frozen=True):
    """Where an engine lives: enough to make the context of any driver."""

    data_root: Path
    exec_root: Path
    engine_id: str
    prefix: str


def context(places: Places, driver: type[Driver], options: Mapping[str, str]) -> DriverContext:
    """The context of a driver in this engine."""
    return DriverContext(
        engine_id=places.engine_id,
        prefix=places.prefix,
        root=places.data_root / (driver.directory or f"{driver.kind.value}/{driver.name}"),
        run=places.exec_root / "drivers" / f"{driver.kind.value}-{driver.name}",
        options=dict(options),
    )


class Choice(msgspec.Struct, frozen=True):
    """What was asked for: a driver's name (empty: whichever is best here) and its options."""

    name: str = ""
    options: dict[str, str] = {}


class Drivers:
    """The drivers of one engine: loaded on first use, one instance each. ``keys``: what Docker's
    own keys say to the drivers that they belong to (``Driver.keys``). ``absent``: kinds that the
    operator does without."""

    def __init__(
        self,
        catalog: Catalog,
        places: Places,
        choices: Mapping[Kind, Choice],
        keys: Mapping[str, str] | None = None,
        absent: frozenset[Kind] = frozenset(),
    ) -> None:
        self.catalog = catalog
        self._absent = absent
        self.places = places
        self._choices = choices
        self._keys = keys or {}
        self._instances: dict[tuple[Kind, str], Driver] = {}
        self._defaults: dict[Kind, str] = {}

    def default(self, kind: Kind) -> str:
        """The name of the engine's default driver of ``kind``.

        The configured one; else the available one of highest priority. ``DriverUnavailable``
        listing each with its reason if none is.
        """
        if kind not in self._defaults:
            choice = self._choices.get(kind, Choice())
            self._defaults[kind] = choice.name or self._best(kind)
        return self._defaults[kind]

    def get(self, kind: Kind, name: str = "") -> Driver:
        """The instance of driver ``name`` (default: the engine's choice), ready for use.

        Raises the errors of ``Catalog.load`` and ``DriverUnavailable`` with the probe's reason.
        """
        name = name or self.default(kind)
        instance = self._instances.get((kind, name))
        if instance is None:
            instance = self._make(self.catalog.load(kind, name), name)
            self._instances[kind, name] = instance
        return instance

    async def use(self, kind: Kind, name: str) -> None:
        """Make :meth:`get` quick: an import may hang, and the daemon's event loop must not."""
        if name and (kind, name) not in self._instances:
            import asyncio  # the command line has no use for it

            await asyncio.to_thread(self.get, kind, name)

    def unavailable(self, kind: Kind, name: str) -> Driver:
        """An instance of a driver that cannot work here, for what it can say; not kept."""
        driver = self.catalog.load(kind, name)
        return driver(self._context(driver, name))

    def has(self, kind: Kind) -> bool:
        """True if a driver of ``kind`` is installed or was asked for, and the operator does not do
        without that kind."""
        if kind in self._absent:
            return False
        return bool(self.catalog.names(kind) or self._choices.get(kind, Choice()).name)

    def waived(self, kind: Kind) -> bool:
        """True if the operator wants to do without drivers of ``kind``."""
        return kind in self._absent

    def loaded(self, kind: Kind) -> list[Driver]:
        """Instances of ``kind`` made so far."""
        return [driver for (k, _), driver in self._instances.items() if k is kind]

    def reconfigure(self, keys: Mapping[str, str]) -> set[str]:
        """Tell the drivers in use what Docker's own keys say now; those that count at once."""
        taken: set[str] = set()
        for (kind, name), driver in self._instances.items():
            changed = {key for key in driver.keys if self._keys.get(key) != keys.get(key)}
            told = {driver.keys[key]: text for key, text in keys.items() if key in driver.keys}
            if changed and driver.reconfigure({**told, **self.options(kind, name)}):
                taken |= changed
        kept = {key: text for key, text in self._keys.items() if key not in taken}
        self._keys = {**kept, **{key: text for key, text in keys.items() if key in taken}}
        return taken

    def close(self) -> None:
        """Each driver lets go of what it holds. What one raises keeps no other from it."""
        for driver in self._instances.values():
            try:
                driver.close()
            except Exception as error:
                log.warning("%s driver %s while closing: %s", driver.kind.value, driver.name, error)

    def options(self, kind: Kind, name: str) -> dict[str, str]:
        """Options configured for a driver: they belong to the one that was named with them, or to
        the default one."""
        choice = self._choices.get(kind, Choice())
        owner = choice.name or self._defaults.get(kind, name)
        return dict(choice.options) if name == owner else {}

    def _context(self, driver: type[Driver], name: str) -> DriverContext:
        told = {driver.keys[key]: text for key, text in self._keys.items() if key in driver.keys}
        return context(self.places, driver, {**told, **self.options(driver.kind, name)})

    def _make(self, driver: type[Driver], name: str) -> Driver:
        where = self._context(driver, name)
        label = f"{driver.kind.value} driver {name!r}"
        try:
            probe = driver.probe(where)
            if probe.available:
                return driver(where)
        except EngineError:
            raise
        except Exception as error:
            raise DriverBroken(
                f"{label} fails when it is probed", f"{type(error).__name__}: {error}"
            ) from error
        raise DriverUnavailable(f"{label} is not available here", probe.reason, probe.help)

    def _best(self, kind: Kind) -> str:
        candidates: list[tuple[int, str]] = []
        reasons: list[str] = []
        for name in self.catalog.names(kind):
            try:
                driver = self.catalog.load(kind, name)
            except DriverBroken as error:
                log.warning("%s", error.message())
                reasons.append(f"{name}: {error.brief}")
                continue
            candidates.append((driver.priority, name))
        for _, name in sorted(candidates, key=lambda c: (-c[0], c[1])):
            try:
                self.get(kind, name)
                return name
            except InvalidParameter:
                # It works here and refuses its options: the operator's mistake, not a reason to
                # take another.
                raise
            except EngineError as error:
                reasons.append(f"{name}: {error.detail or error.brief}")
        raise DriverUnavailable(
            f"no {kind.value} driver is available",
            "; ".join(reasons) or "none is installed",
            f"install one: pip install pyengine-{PACKAGE_PREFIX.get(kind, kind.value)}-...",
        )


# -- pyengine drivers ------------------------------------------------------------------------------


def survey(
    kinds: Sequence[Kind] = tuple(Kind), chosen: Mapping[Kind, Iterable[str]] | None = None
) -> list[DriverStatus]:
    """Every installed driver with what its probe says; each probed in a child of its own.

    ``chosen``: names to be marked, by kind. Nothing a driver does can raise here.
    """
    catalog = Catalog()
    items = [item for item in catalog.all() if item.kind in kinds]
    with ThreadPoolExecutor(max_workers=os.cpu_count() or 2) as pool:
        probes = list(pool.map(lambda item: _probe_in_child(catalog, item), items))
    marked = {kind: set(names) for kind, names in (chosen or {}).items()}
    return [
        DriverStatus(
            kind=item.kind.value,
            name=item.name,
            package=item.package,
            version=item.version,
            available=probe.available,
            chosen=item.name in marked.get(item.kind, ()),
            reason=probe.reason,
            help=probe.help,
        )
        for item, probe in zip(items, probes, strict=True)
    ]


def _probe_in_child(catalog: Catalog, item: Installed) -> Probe:
    try:
        catalog.find(item.kind, item.name)
    except DriverDuplicate as error:
        return Probe(False, f"{error.brief}: {error.detail}", error.help)
    command = [sys.executable, "-m", "pyengine.drivers", msgspec.json.encode(item).decode()]
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            timeout=PROBE_DEADLINE,
            check=False,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    except subprocess.TimeoutExpired:
        return Probe(
            False,
            f"hangs while it is imported or probed (over {PROBE_DEADLINE:g} s)",
            f"pip uninstall {item.package}",
        )
    try:
        return msgspec.json.decode(done.stdout.rpartition(b"\x1e")[2], type=Probe)
    except msgspec.DecodeError:
        end = f"signal {-done.returncode}" if done.returncode < 0 else f"exit {done.returncode}"
        last = done.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        return Probe(False, f"its probe ended the process ({end}): {last}", "see its documentation")


def _probe_here(item: Installed) -> Probe:
    try:
        driver = load_class(item)
        with tempfile.TemporaryDirectory(prefix="pyengine-probe-") as scratch:
            places = Places(Path(scratch) / "data", Path(scratch) / "run", "probe", "peprobe")
            return driver.probe(context(places, driver, {}))
    except EngineError as error:
        return Probe(False, f"{error.brief}: {error.detail}", error.help)
    except Exception as error:
        return Probe(False, f"its probe raised {type(error).__name__}: {error}")


if __name__ == "__main__":
    answer = _probe_here(msgspec.json.decode(sys.argv[1], type=Installed))
    # The record separator: a driver may have printed something before.
    sys.stdout.write("\x1e" + msgspec.json.encode(answer).decode())
    sys.stdout.flush()
    os._exit(0)
