"""Docker's options of a bridge network, read from a record and checked."""

from __future__ import annotations

import ipaddress

import msgspec

from pyengine.contracts.network import NetworkRecord
from pyengine.errors import InvalidParameter, Unsupported
from pyengine.linux.interfaces import valid_name

_BRIDGE = "com.docker.network.bridge."
NAME = _BRIDGE + "name"
ICC = _BRIDGE + "enable_icc"
MASQUERADE = _BRIDGE + "enable_ip_masquerade"
HOST_BINDING = _BRIDGE + "host_binding_ipv4"
DEFAULT_BRIDGE = _BRIDGE + "default_bridge"
INHIBIT_IPV4 = _BRIDGE + "inhibit_ipv4"
GATEWAY_MODES = (_BRIDGE + "gateway_mode_ipv4", _BRIDGE + "gateway_mode_ipv6")
MTU = "com.docker.network.driver.mtu"
INTERFACE_PREFIX = "com.docker.network.container_iface_prefix"

_KNOWN = {
    NAME,
    ICC,
    MASQUERADE,
    HOST_BINDING,
    DEFAULT_BRIDGE,
    INHIBIT_IPV4,
    MTU,
    INTERFACE_PREFIX,
    *GATEWAY_MODES,
}
# What Go's strconv.ParseBool takes.
_TRUE = {"1", "t", "T", "TRUE", "true", "True"}
_FALSE = {"0", "f", "F", "FALSE", "false", "False"}


class BridgeOptions(msgspec.Struct, frozen=True):
    """The options in force. ``mtu`` 0: the kernel's default. ``given``: the bridge is the
    operator's, who has made it for the default network."""

    bridge: str
    given: bool = False
    icc: bool = True
    masquerade: bool = True
    host_binding: str = ""
    inhibit_ipv4: bool = False
    mtu: int = 0


def read_options(network: NetworkRecord, prefix: str) -> BridgeOptions:
    """Raises ``InvalidParameter`` for a value that is wrong and for an option of Docker's name
    space that nobody here knows, ``Unsupported`` for one that is known and not done. Options of
    other name spaces are the user's own data."""
    options = network.options
    for key in sorted(options):
        if key.startswith("com.docker.network.") and key not in _KNOWN:
            raise InvalidParameter(
                f"unknown option {key!r} for network driver 'bridge'",
                help="it knows " + ", ".join(sorted(_KNOWN)),
            )
    for key in GATEWAY_MODES:
        if options.get(key, "nat") not in ("", "nat"):
            raise Unsupported(
                f"network driver 'bridge' cannot do {key}={options[key]}", help="use nat"
            )
    default = f"{prefix}0" if network.predefined else f"br-{network.id[:12]}"
    bridge = options.get(NAME) or default
    if not valid_name(bridge):
        raise InvalidParameter(
            f"invalid bridge name {bridge!r}",
            help="1 to 15 characters, without white space, slash or colon",
        )
    return BridgeOptions(
        bridge=bridge,
        given=network.predefined and bridge != default,
        icc=_boolean(options, ICC, True),
        masquerade=_boolean(options, MASQUERADE, True),
        host_binding=_ipv4(options, HOST_BINDING),
        inhibit_ipv4=_boolean(options, INHIBIT_IPV4, False),
        mtu=_mtu(options),
    )


def _boolean(options: dict[str, str], key: str, default: bool) -> bool:
    value = options.get(key)
    if value is None or value in _TRUE | _FALSE:
        return default if value is None else value in _TRUE
    raise InvalidParameter(f"invalid value {value!r} for {key}", help="true or false")


def _ipv4(options: dict[str, str], key: str) -> str:
    value = options.get(key, "")
    try:
        return str(ipaddress.IPv4Address(value)) if value else ""
    except ValueError as error:
        raise InvalidParameter(f"invalid value {value!r} for {key}", str(error)) from None


def _mtu(options: dict[str, str]) -> int:
    value = options.get(MTU, "")
    # 68 is the least that IPv4 allows (RFC 791), 65535 the most that the kernel does here.
    if value and not (value.isdecimal() and (value == "0" or 68 <= int(value) <= 65535)):
        raise InvalidParameter(f"invalid value {value!r} for {MTU}", help="68 to 65535 bytes")
    return int(value or 0)
