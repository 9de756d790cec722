"""JSON values seen as Go values: their zero values, truth, printed form and order."""

from __future__ import annotations

import json

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Any


class GoError(Exception):
    """A template function refused its arguments."""


class _NoValue:
    """What a missing key of a map gives: prints ``<no value>``, is false, is no argument."""

    def __bool__(self) -> bool:
        return False


NO_VALUE = _NoValue()


class Struct(dict[str, "Any"]):
    """A Go struct: its fields are known, so one that it lacks is an error.

    ``text`` is how it prints and ``encoded`` its JSON, where that is not made of the fields.
    """

    type_name = "struct"
    text = ""
    encoded: dict[str, Any] | None = None


class Row:
    """One line of a listing. ``HEADERS`` names its fields; each is a method without arguments."""

    HEADERS: dict[str, str] = {}
    METHODS: tuple[str, ...] = ()
    type_name = ""

    def method(self, name: str) -> Callable[..., Any] | None:
        """The method behind a field name, or None."""
        if name in self.HEADERS or name in self.METHODS:
            found: Callable[..., Any] = getattr(self, name)
            return found
        return None

    def fields(self) -> dict[str, Any]:
        """Every field, in the order in which Go marshals them."""
        return {name: getattr(self, name)() for name in sorted(self.HEADERS)}


class Header(Row):
    """The row whose fields are the column headings."""

    def __init__(self, headers: dict[str, str]) -> None:
        self._headers = headers

    def method(self, name: str) -> Callable[..., Any] | None:
        if name in self._headers:
            return lambda *_: self._headers[name]
        return lambda *arguments: str(arguments[0]) if arguments else NO_VALUE


# Names of fields in the API's objects that are maps (null prints map[]), and that are slices.
MAPS = frozenset(
    [
        "Labels",
        "Volumes",
        "ExposedPorts",
        "Ports",
        "Networks",
        "PortBindings",
        "Sysctls",
        "Tmpfs",
        "StorageOpt",
        "Annotations",
        "Options",
        "DriverOpts",
        "Containers",
        "Data",
        "Runtimes",
        "Attributes",
        "GenericResources",
    ]
)
SLICES = frozenset(
    [
        "Args",
        "Binds",
        "CapAdd",
        "CapDrop",
        "Cmd",
        "Env",
        "Entrypoint",
        "OnBuild",
        "Dns",
        "DnsOptions",
        "DnsSearch",
        "ExtraHosts",
        "GroupAdd",
        "Links",
        "Mounts",
        "SecurityOpt",
        "VolumesFrom",
        "ExecIDs",
        "RepoTags",
        "RepoDigests",
        "Layers",
        "Aliases",
        "DNSNames",
        "MaskedPaths",
        "ReadonlyPaths",
        "Devices",
        "DeviceCgroupRules",
        "DeviceRequests",
        "Ulimits",
        "Log",
        "BlkioWeightDevice",
        "BlkioDeviceReadBps",
        "BlkioDeviceWriteBps",
        "BlkioDeviceReadIOps",
        "BlkioDeviceWriteIOps",
        "Shell",
        "Test",
        "Warnings",
        "SecurityOptions",
        "DriverStatus",
        "Plugins",
    ]
)
# Fields that the API leaves out when they are empty, though the struct has them.
_OPTIONAL: dict[str, dict[str, Any]] = {
    "": {"Node": None, "SizeRw": None, "SizeRootFs": None, "GraphDriver": None},
    "State": {"Health": None},
    "Config": {
        "ExposedPorts": {},
        "Healthcheck": None,
        "ArgsEscaped": False,
        "NetworkDisabled": False,
        "MacAddress": "",
        "StopSignal": "",
        "StopTimeout": None,
        "Shell": [],
    },
    "HostConfig": {
        "Mounts": [],
        "Tmpfs": {},
        "StorageOpt": {},
        "Sysctls": {},
        "Init": None,
        "Annotations": {},
        "Runtime": "",
    },
}


def structured(value: Any, name: str = "", parent: str = "", type_name: str = "") -> Any:
    """The API's JSON as the typed values Docker's client would decode it to."""
    if isinstance(value, dict):
        is_map = name in MAPS or (parent == "LogConfig" and name == "Config")
        if is_map:
            return {key: structured(item, "", name) for key, item in value.items()}
        fields = Struct((key, structured(item, key, name)) for key, item in value.items())
        if type_name or name:
            for key, zero in _OPTIONAL.get(name, {}).items():
                fields.setdefault(key, zero)
        fields.type_name = type_name or f"*{name or 'struct'}"
        if parent == "Ulimits":
            fields.text = f"{value.get('Name')}={value.get('Soft')}:{value.get('Hard')}"
        return fields
    if isinstance(value, list):
        return [structured(item, "", name) for item in value]
    if value is None:
        return {} if name in MAPS else [] if name in SLICES else None
    return value


def truth(value: Any) -> bool:
    """Go's truth: empty is false, a struct is always true."""
    if isinstance(value, (Struct, Row)):
        return True
    return bool(value)


def type_name(value: Any) -> str:
    """The Go type an error message names."""
    if isinstance(value, (Row, Struct)):
        return value.type_name
    if value is None or value is NO_VALUE:
        return "interface {}"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int"
    if isinstance(value, float):
        return "float64"
    if isinstance(value, str):
        return "string"
    if isinstance(value, list):
        if value and all(isinstance(item, str) for item in value):
            return "[]string"
        return "[]interface {}"
    return "map[string]interface {}"


def display(value: Any) -> str:
    """What fmt.Print writes."""
    if value is NO_VALUE:
        return "<no value>"
    if value is None:
        return "<nil>"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return _float(value)
    if isinstance(value, Struct):
        return value.text or "{" + " ".join(display(item) for item in value.values()) + "}"
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{display(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(display(item) for item in value) + "]"
    return str(value)


def _float(value: float) -> str:
    """%v of a float64: the shortest form, exponent from 21 digits on."""
    if value == int(value) and abs(value) < 1e21:
        return str(int(value))
    text = repr(value)
    if "e" in text:
        mantissa, _, exponent = text.partition("e")
        power = int(exponent)
        return f"{mantissa}e{'-' if power < 0 else '+'}{abs(power):02d}"
    return text


def to_json(value: Any) -> str:
    """Go's encoding: maps sorted by key, structs in their order; rows with HTML escapes."""
    text = json.dumps(_plain(value), separators=(",", ":"), ensure_ascii=False)
    return escape(text) if isinstance(value, Row) else text


def escape(text: str) -> str:
    """JSON that may stand in HTML, as Go's encoder writes it."""
    for char in "<>&":
        text = text.replace(char, f"\\u{ord(char):04x}")
    return text


def _plain(value: Any) -> Any:
    if isinstance(value, Row):
        return value.fields()
    if value is NO_VALUE:
        return None
    if isinstance(value, Struct) and value.encoded is not None:
        return value.encoded
    if isinstance(value, Struct):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, dict):
        return {key: _plain(value[key]) for key in sorted(value)}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    return value
