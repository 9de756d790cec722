"""Which endpoints a registry's name stands for, how much each is trusted, and through which proxy.

The rules are dockerd's (https://docs.docker.com/reference/cli/dockerd/#insecure-registries,
https://docs.docker.com/engine/security/certificates/), with mirrors for every registry.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import ssl
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from pyengine.config import Config, RegistryEntry
from pyengine.errors import InvalidParameter
from pyengine.registry import names

#: Where Docker keeps certificates of registries; looked at after the engine's own directory.
DOCKER_CERTS = Path("/etc/docker/certs.d")
#: Always insecure, as in Docker: people run registries on their own machine.
LOOPBACK = ("::1/128", "127.0.0.0/8")


class Endpoint(NamedTuple):
    """One address that serves a registry's content.

    ``url`` has no slash at its end, and a path if it is a mirror's. ``insecure``: certificates are
    not verified, plain HTTP and redirects to it are allowed.
    """

    url: str
    mirror: bool
    insecure: bool
    tls: ssl.SSLContext

    @property
    def host(self) -> str:
        """``host`` or ``host:port``."""
        return urlsplit(self.url).netloc

    @property
    def plain(self) -> bool:
        return self.url.startswith("http://")


class Limits(NamedTuple):
    """Docker's ``max-`` keys."""

    downloads: int
    uploads: int
    attempts: int


class RegistryConfig:
    """The configuration as the client uses it; a reload makes a new one.

    ``directory`` is that of daemon.json: ``certs.d`` in it holds certificates by host.
    """

    def __init__(self, config: Config, directory: Path) -> None:
        default = Config()
        self.limits = Limits(
            config.max_concurrent_downloads or default.max_concurrent_downloads,
            config.max_concurrent_uploads or default.max_concurrent_uploads,
            config.max_download_attempts or default.max_download_attempts,
        )
        self._certs = (directory / "certs.d", DOCKER_CERTS)
        self._registries = {
            names.normalize(host): entry for host, entry in config.registries.items()
        }
        self._mirrors = _unique(config.registry_mirrors)
        given = [item.partition("://")[2] or item for item in config.insecure_registries]
        self._insecure_hosts = {item for item in given if not names.network(item)}
        networks = [names.network(item) for item in (*given, *LOOPBACK)]
        self._insecure_networks = list(dict.fromkeys(n for n in networks if n is not None))
        proxies = config.proxies
        self._http_proxy = config.http_proxy or proxies.http_proxy or _environment("http_proxy")
        self._https_proxy = config.https_proxy or proxies.https_proxy or _environment("https_proxy")
        self._no_proxy = config.no_proxy or proxies.no_proxy or _environment("no_proxy")
        self._contexts: dict[tuple[str, bool], tuple[Any, ssl.SSLContext]] = {}

    def endpoints(self, domain: str, *, mirrors: bool) -> list[Endpoint]:
        """Of the registry ``domain``, in the order to try. Blocks: names are resolved, certificates
        read. ``InvalidParameter`` if those are not as they must be."""
        domain = names.normalize(domain)
        found: list[Endpoint] = []
        if mirrors:
            for mirror in self.mirrors(domain):
                host = urlsplit(mirror).netloc
                insecure = mirror.startswith("http://") or self.is_insecure(host)
                found.append(Endpoint(mirror, True, insecure, self._tls(host, insecure)))
        if domain == names.DEFAULT_REGISTRY:
            host = names.DEFAULT_REGISTRY_HOST
            return [*found, Endpoint(f"https://{host}", False, False, self._tls(host, False))]
        insecure = self.is_insecure(domain)
        tls = self._tls(domain, insecure)
        found.append(Endpoint(f"https://{domain}", False, insecure, tls))
        if insecure:
            found.append(Endpoint(f"http://{domain}", False, insecure, tls))
        return found

    def mirrors(self, domain: str) -> list[str]:
        """Base URLs without a slash at the end."""
        entry = self._entry(domain)
        more = self._mirrors if domain == names.DEFAULT_REGISTRY else []
        return _unique([*entry.mirrors, *more])

    def is_insecure(self, host: str) -> bool:
        """True if ``host[:port]``, or the network that it resolves into, was declared insecure."""
        said = self._entry(host).insecure
        if said is not None:
            return said
        if host in self._insecure_hosts:
            return True
        if names.normalize(host) == names.DEFAULT_REGISTRY:
            return False
        return any(
            address in network
            for address in _resolve(names.split_host(host)[0])
            for network in self._insecure_networks
        )

    def proxy(self, url: str) -> str | None:
        """The proxy for a request to ``url``; None: none."""
        parts = urlsplit(url)
        proxy = self._https_proxy if parts.scheme == "https" else self._http_proxy
        port = parts.port or (443 if parts.scheme == "https" else 80)
        if not proxy or _bypasses(parts.hostname or "", port, self._no_proxy):
            return None
        return proxy if "://" in proxy else f"http://{proxy}"

    def info(self) -> dict[str, Any]:
        """What ``GET /info`` says of all this."""
        mirrors = [f"{mirror}/" for mirror in self.mirrors(names.DEFAULT_REGISTRY)]
        indexes = {
            names.DEFAULT_REGISTRY: {
                "Name": names.DEFAULT_REGISTRY,
                "Mirrors": mirrors,
                "Secure": True,
                "Official": True,
            }
        }
        declared = {
            host
            for host, entry in self._registries.items()
            if entry.insecure is not None or entry.mirrors
        }
        for host in sorted((self._insecure_hosts | declared) - {names.DEFAULT_REGISTRY}):
            said = self._entry(host).insecure
            insecure = host in self._insecure_hosts if said is None else said
            indexes[host] = {
                "Name": host,
                "Mirrors": [f"{mirror}/" for mirror in self.mirrors(host)],
                "Secure": not insecure,
                "Official": False,
            }
        return {
            "RegistryConfig": {
                "AllowNondistributableArtifactsCIDRs": None,
                "AllowNondistributableArtifactsHostnames": None,
                "InsecureRegistryCIDRs": [str(network) for network in self._insecure_networks],
                "IndexConfigs": indexes,
                "Mirrors": mirrors or None,
            },
            "HttpProxy": names.mask(self._http_proxy),
            "HttpsProxy": names.mask(self._https_proxy),
            "NoProxy": self._no_proxy,
        }

    def _entry(self, host: str) -> RegistryEntry:
        return self._registries.get(names.normalize(host), RegistryEntry())

    def _tls(self, host: str, insecure: bool) -> ssl.SSLContext:
        """For ``host[:port]``, made anew when its certificates have changed."""
        entry = self._entry(host)
        files = _certificates(self._certs, host)
        own = [Path(path) for path in (entry.ca, entry.client_cert, entry.client_key) if path]
        state = [(path, _stamp(path)) for path in (*files, *own)]
        # Who has no certificates of its own shares a context: the system's authorities are many.
        key = (host if state else "", insecure)
        known = self._contexts.get(key)
        if known is not None and known[0] == state:
            return known[1]
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.set_alpn_protocols(["http/1.1"])
        # As Docker does: a certificate that was put there is trusted whoever signed it, and a
        # private CA need not have every extension of RFC 5280.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN
        context.verify_flags &= ~ssl.VERIFY_X509_STRICT
        if insecure:
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
        else:
            context.load_default_certs()
        _load_directory(context, files)
        if entry.ca:
            _load_ca(context, Path(entry.ca))
        if entry.client_cert:
            _load_pair(context, Path(entry.client_cert), Path(entry.client_key))
        self._contexts[key] = (state, context)
        return context


def _unique(mirrors: Sequence[str]) -> list[str]:
    return list(dict.fromkeys(mirror.rstrip("/") for mirror in mirrors))


def _environment(name: str) -> str:
    return os.environ.get(name.upper()) or os.environ.get(name) or ""


def _resolve(host: str) -> list[ipaddress.IPv4Address | ipaddress.IPv6Address]:
    """Addresses of a name or address; none if it does not resolve."""
    try:
        return [ipaddress.ip_address(host)]
    except ValueError:
        pass
    try:
        found = socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)
    except (OSError, UnicodeError):
        return []
    return [ipaddress.ip_address(str(address[0]).partition("%")[0]) for *_, address in found]


def _bypasses(host: str, port: int, no_proxy: str) -> bool:
    """``NO_PROXY`` as Go's programs read it: names with their subdomains, ``.domain`` for these
    alone, addresses, networks, each perhaps with a port, and ``*``. Loopback never has a proxy."""
    address = None
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        pass
    if host == "localhost" or (address is not None and address.is_loopback):
        return True
    for item in (part.strip().lower() for part in no_proxy.split(",")):
        if item == "*":
            return True
        network = names.network(item)
        if network is not None:
            if address is not None and address in network:
                return True
            continue
        name, wanted_port = names.split_host(item)
        if not name or (wanted_port and wanted_port != str(port)):
            continue
        domain = name.removeprefix("*").removeprefix(".")
        if host.endswith(f".{domain}") or (host == domain and not name.startswith((".", "*"))):
            return True
    return False


# -- certificates ----------------------------------------------------------------------------------


def _certificates(directories: Sequence[Path], host: str) -> list[Path]:
    """Files of the first directory that there is for ``host``."""
    for directory in directories:
        try:
            return sorted((directory / host).iterdir())
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            raise InvalidParameter(f"open {directory / host}: {error.strerror}") from error
    return []


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _load_directory(context: ssl.SSLContext, files: Sequence[Path]) -> None:
    present = {path.name for path in files}
    for path in files:
        if path.suffix == ".crt":
            _load_ca(context, path)
        elif path.suffix == ".cert":
            key = path.with_suffix(".key")
            if key.name not in present:
                raise InvalidParameter(
                    f"missing key {key.name} for client certificate {path.name}. "
                    "CA certificates must use the extension .crt"
                )
            _load_pair(context, path, key)
        elif path.suffix == ".key":
            certificate = path.with_suffix(".cert")
            if certificate.name not in present:
                raise InvalidParameter(
                    f"missing client certificate {certificate.name} for key {path.name}"
                )


def _load_ca(context: ssl.SSLContext, path: Path) -> None:
    try:
        context.load_verify_locations(path)
    except (OSError, ssl.SSLError) as error:
        raise InvalidParameter(f"{path} is no certificate in PEM", str(error)) from error


def _load_pair(context: ssl.SSLContext, certificate: Path, key: Path) -> None:
    def refuse() -> str:
        raise InvalidParameter(f"{key} is encrypted", help="keep it without a passphrase")

    try:
        context.load_cert_chain(certificate, key, refuse)
    except (OSError, ssl.SSLError) as error:
        raise InvalidParameter(f"{certificate} and {key} are no pair", str(error)) from error
