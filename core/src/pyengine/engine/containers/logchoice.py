"""Which log drivers a container has, and which option is for which of them.

``--log-driver`` names one driver, as with Docker, or several (``json-file,fluentd``): at most one
that keeps the log here, and any number of sinks. With sinks alone the log is kept all the same, so
that ``docker logs`` works with every driver; the options ``cache-*`` are about that.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from pyengine import sizes
from pyengine.bases.logoptions import CACHE, COMMON, check_common, parse_flag
from pyengine.contracts.base import Kind
from pyengine.contracts.logging import LoggingDriver
from pyengine.contracts.logsink import LogSinkDriver
from pyengine.drivers import Drivers
from pyengine.engine.model import LogSinkChoice
from pyengine.errors import EngineError, InvalidParameter, Unavailable

DEFAULT_BUFFER = "1m"
_DELIVERY = ("mode", "max-buffer-size")


class LogPlan(NamedTuple):
    """``writer``: the driver that keeps the log here."""

    writer: str
    options: dict[str, str]
    sinks: list[LogSinkChoice]


class LogChoices:
    """``default``: what a container gets that names nothing. ``options``: of the operator, where
    that is several drivers; one alone has its own."""

    def __init__(self, drivers: Drivers, default: str, options: Mapping[str, str]) -> None:
        self._drivers = drivers
        self._options = options
        self.default = default

    def options(self, wanted: str, given: Mapping[str, str]) -> dict[str, str]:
        """``LogConfig.Config`` of a container: the operator's options where it has the default
        driver, and says nothing itself. They stay with it when the operator changes them."""
        if wanted not in ("", self.default):
            return dict(given)
        first, *others = names_of(self.default)
        own = self._options if others else self._drivers.options(Kind.LOGGING, first)
        return {**own, **given}

    def plan(self, wanted: str, given: Mapping[str, str]) -> LogPlan:
        """For ``LogConfig`` of a create request. ``InvalidParameter`` for unknown drivers and for
        options that none of them knows or one refuses."""
        wanted = wanted or self.default
        names = names_of(wanted)
        drivers = {name: self._find(name) for name in names}
        options = self.options(wanted, given)
        writers = [name for name, one in drivers.items() if isinstance(one, LoggingDriver)]
        if len(writers) > 1:
            raise InvalidParameter(
                f"log drivers {' and '.join(writers)} both keep the log",
                help="choose one of them; any number that send it elsewhere may be beside it",
            )
        buffer_limit(options)
        cache = {CACHE[key]: options.pop(key) for key in CACHE if key in options}
        if list(drivers) == writers:
            own = self._without_prefix(writers[0], options)
            drivers[writers[0]].validate(own)
            return LogPlan(writers[0], own, [])
        shares = _share(drivers, options)
        for name, driver in drivers.items():
            driver.validate(shares[name])
        sinks = [LogSinkChoice(name, shares[name]) for name in names if name not in writers]
        if writers:
            return LogPlan(writers[0], shares[writers[0]], sinks)
        disabled = _flag("cache-disabled", cache.pop("", "false"))
        writer = self._buffer(readable=not disabled)
        kept = {key: value for key, value in cache.items() if key in writer.options}
        common = {key: value for key, value in options.items() if key in COMMON - {"tag"}}
        writer.validate(kept if disabled else {**common, **kept})
        return LogPlan(writer.name, {} if disabled else {**common, **kept}, sinks)

    def _find(self, name: str) -> LoggingDriver | LogSinkDriver:
        if name not in self._drivers.catalog.names(Kind.LOGGING):
            raise InvalidParameter(
                # Exactly Docker's words: programs compare them.
                f'error looking up logging plugin {name}: plugin "{name}" not found'
            )
        driver = self._drivers.get(Kind.LOGGING, name)
        assert isinstance(driver, LoggingDriver | LogSinkDriver)
        return driver

    def _buffer(self, *, readable: bool) -> LoggingDriver:
        """The best driver that keeps a log here, or one that keeps nothing."""
        found: list[LoggingDriver] = []
        for name in self._drivers.catalog.names(Kind.LOGGING):
            try:
                driver = self._drivers.get(Kind.LOGGING, name)
            except EngineError:
                continue
            if isinstance(driver, LoggingDriver) and driver.readable is readable:
                found.append(driver)
        if not found:
            raise Unavailable(
                f"no log driver that keeps {'a log' if readable else 'none'} is installed",
                help="install a package that provides one: pyengine drivers lists what there is",
            )
        return max(found, key=lambda driver: driver.priority)

    def _without_prefix(self, name: str, options: Mapping[str, str]) -> dict[str, str]:
        return {key.removeprefix(f"{name}."): value for key, value in options.items()}


def names_of(wanted: str) -> list[str]:
    """The drivers that ``--log-driver`` names."""
    return [name.strip() for name in wanted.split(",")]


def buffer_limit(options: Mapping[str, str]) -> int:
    """Bytes that may wait for a sink, 0: no limit. ``mode`` and ``max-buffer-size``, checked with
    Docker's words."""
    check_common({key: options[key] for key in _DELIVERY if key in options}, frozenset(), "%s")
    if options.get("mode") != "non-blocking":
        return 0
    return sizes.parse(options.get("max-buffer-size") or DEFAULT_BUFFER, 1024)


def _flag(option: str, text: str) -> bool:
    try:
        return parse_flag(text)
    except ValueError as error:
        raise InvalidParameter(f"log opt '{option}'", str(error)) from None


def _share(
    drivers: Mapping[str, LoggingDriver | LogSinkDriver], options: Mapping[str, str]
) -> dict[str, dict[str, str]]:
    """The options of each driver: ``driver.option`` is for one, others for all that know it."""
    shares: dict[str, dict[str, str]] = {name: {} for name in drivers}
    for key, value in options.items():
        one, dot, own = key.partition(".")
        if dot and one in drivers:
            takers: Sequence[str] = [one] if own in drivers[one].options | COMMON else []
            key = own
        else:
            takers = [n for n, driver in drivers.items() if key in driver.options | COMMON]
        if not takers:
            whose = one if dot and one in drivers else ", ".join(drivers)
            raise InvalidParameter(f"unknown log opt '{key}' for {whose} log driver")
        for name in takers:
            shares[name].setdefault(key, value)
            if dot:
                shares[name][key] = value
    return shares
