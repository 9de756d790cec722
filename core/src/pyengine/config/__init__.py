"""The engine's configuration: daemon.json, flags, and how the two become one.

Keys and flags have dockerd's names (https://docs.docker.com/reference/cli/dockerd/). A key is a
field of :class:`Config` (:mod:`~pyengine.config.keys`); its flag is the key itself unless
:data:`~pyengine.config.flags.FLAGS` says otherwise. Everything wrong is reported at once. A flag
beats the file, and a line says so.
"""

from pyengine.config.keys import (
    API_VERSION,
    DEFAULT_DATA_ROOT,
    DEFAULT_EXEC_ROOT,
    DEFAULT_FILE,
    DEFAULT_SOCKET,
    AddressPool,
    Config,
    DriverChoice,
    Proxies,
    RegistryEntry,
    RuntimeEntry,
    UlimitDefault,
)
from pyengine.config.loading import Loaded, load
from pyengine.config.reload import RELOADABLE, adopt, changes

__all__ = [
    "API_VERSION",
    "DEFAULT_DATA_ROOT",
    "DEFAULT_EXEC_ROOT",
    "DEFAULT_FILE",
    "DEFAULT_SOCKET",
    "RELOADABLE",
    "AddressPool",
    "Config",
    "DriverChoice",
    "Loaded",
    "Proxies",
    "RegistryEntry",
    "RuntimeEntry",
    "UlimitDefault",
    "adopt",
    "changes",
    "load",
]
