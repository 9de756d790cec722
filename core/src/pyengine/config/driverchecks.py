"""What the drivers that a configuration chooses say to it: before any of them is started."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from pyengine.bases.logoptions import CACHE, COMMON
from pyengine.config.keys import DRIVER_KEYS, FIELDS, PLUGIN_KEYS, Config
from pyengine.contracts.base import Driver, Kind
from pyengine.drivers import Catalog, Drivers, Places
from pyengine.errors import EngineError

#: Docker's keys that are options of a kind's drivers.
_OPTION_KEYS = {
    Kind.STORAGE: "storage-opts",
    Kind.LOGGING: "log-opts",
    Kind.IPAM: "default-address-pools",
}


def refusals(config: Config, catalog: Catalog) -> list[str]:
    """A line for each choice that is not installed or cannot be imported, and for each option
    that its driver refuses. Whether a driver works on this host is not asked."""
    places = Places(Path(config.data_root), Path(config.exec_root), "", "pe")
    drivers = Drivers(catalog, places, config.choices(), config.for_plugins(), config.absent())
    found: list[str] = []
    for kind, choice in config.choices().items():
        name = choice.name or _first(catalog, kind)
        found += filter(None, [_ask(drivers, config, kind, name)]) if name else []
    first, *others = [name.strip() for name in config.log_driver.split(",")]
    found += _several_logs(config, catalog, [first, *others]) if others else []
    named = config.security()
    for name in catalog.names(Kind.SECURITY) if named is None else named:
        found += filter(None, [_ask(drivers, config, Kind.SECURITY, name)])
    wanted = [(f"drivers.{kind}.allow", kind, config.allowed(kind) or []) for kind in Kind]
    wanted.append(("default-network-opts", Kind.NETWORK, list(config.default_network_opts)))
    for key, kind, names in wanted:
        installed = catalog.names(kind)
        found += [
            f"{key}: no {kind} driver {name!r} is installed: {', '.join(installed) or 'none'}"
            for name in names
            if name not in installed
        ]
    return found


def _several_logs(config: Config, catalog: Catalog, names: Sequence[str]) -> Iterator[str]:
    """Of several log drivers all have to be there, and one has to know each option."""
    known = COMMON | set(CACHE)
    for name in names:
        try:
            known |= getattr(catalog.load(Kind.LOGGING, name), "options", frozenset())
        except EngineError as error:
            if name != names[0]:  # which is said already
                yield f"log-driver: {error.message()}"
    for key in config.log_opts:
        one, dot, own = key.partition(".")
        if (own if dot and one in names else key) not in known:
            yield f"log-opts: unknown log opt '{key}' for {', '.join(names)} log driver"


def _first(catalog: Catalog, kind: Kind) -> str:
    """The driver that is taken before all others where none was named; "" if none is installed."""
    ranked = []
    for name in catalog.names(kind):
        try:
            ranked.append((-catalog.load(kind, name).priority, name))
        except EngineError:
            continue  # its error where somebody wants it
    return min(ranked, default=(0, ""))[1]


def _ask(drivers: Drivers, config: Config, kind: Kind, name: str) -> str:
    """What driver ``name`` says to its options, or nothing."""
    try:
        driver = drivers.catalog.load(kind, name)
    except EngineError as error:
        return f"{_chooser(config, kind)}: {error.message()}"
    try:
        drivers.unavailable(kind, name).check()
    except EngineError as error:
        return f"{_options(config, kind, driver)}: {error.message()}"
    return ""


def _chooser(config: Config, kind: Kind) -> str:
    """The key that names the driver."""
    for key, chosen in DRIVER_KEYS.items():
        if chosen == kind and kind not in config.drivers and getattr(config, FIELDS[key].name):
            return key
    return f"drivers.{kind}"


def _options(config: Config, kind: Kind, driver: type[Driver]) -> str:
    """The key that says the options."""
    own = [key for key in PLUGIN_KEYS.intersection(driver.keys) if key in config.for_plugins()]
    key = _OPTION_KEYS.get(kind, "")
    if key and getattr(config, FIELDS[key].name):
        own.append(key)
    return ", ".join(sorted(own)) or f"drivers.{kind}"
