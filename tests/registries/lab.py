"""All that stands around an engine under test: registries, proxies, skopeo, in its namespace."""

from __future__ import annotations

import base64
import json
import os
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp

from .hostile import HostileRegistry
from .images import OCI_MANIFEST, Pushable
from .loops import NamespaceLoop
from .proxy import ChaosProxy
from .server import ADDRESS, PASSWORD, USER, Registry, RegistryProcess, Tls, htpasswd
from .tokens import TokenService


class Lab:
    """Makes registries on demand; ``close`` ends them. One for each engine."""

    def __init__(self, namespace: str, root: Path) -> None:
        self.namespace = namespace
        self.root = root
        self.loop = NamespaceLoop(namespace)
        self._enter = ["nsenter", f"--net=/run/netns/{namespace}", "--"]
        self._undo: list[Callable[[], None]] = []
        root.mkdir(parents=True, exist_ok=True)
        self.sh("ip", "address", "replace", f"{ADDRESS}/32", "dev", "lo")

    def close(self) -> None:
        for undo in reversed(self._undo):
            undo()
        self.loop.close()

    # -- registries --------------------------------------------------------------------------------

    def _start(self, name: str, **options: Any) -> RegistryProcess:
        process = RegistryProcess(self.root / name, self.namespace, **options)
        self._undo.append(process.stop)
        process.wait_ready(self.loop)
        return process

    def plain(self, name: str = "plain", host: str = "127.0.0.1") -> Registry:
        """Plain HTTP, for everybody."""
        process = self._start(name, host=host)
        return Registry(process.host, process, skopeo=["--tls-verify=false"])

    def basic(self, name: str = "basic") -> Registry:
        """Plain HTTP with Basic auth."""
        file = htpasswd(self.root / f"{name}.htpasswd", {USER: PASSWORD})
        auth = {"htpasswd": {"realm": "registry.test", "path": str(file)}}
        process = self._start(name, auth=auth)
        return Registry(process.host, process, USER, PASSWORD, skopeo=["--tls-verify=false"])

    def tls(self, name: str = "tls", *, client: bool = False) -> Registry:
        """HTTPS with a certificate of a private CA; ``client``: it wants one of the client too."""
        tls = Tls(self.root / f"{name}.tls", ADDRESS)
        process = self._start(name, host=ADDRESS, http=tls.http(client=client))
        certs = self.root / f"{name}.certs"
        tls.certs_d(certs, client=client)
        return Registry(process.host, process, tls=tls, skopeo=[f"--cert-dir={certs}"])

    def token(self, name: str = "token", lifetime: int = 300) -> Registry:
        """Plain HTTP with a token service of its own."""
        tokens = TokenService(self.loop, {USER: PASSWORD, "bob": "builder"}, lifetime)
        tokens.actions["bob"] = {"pull"}
        bundle = self.root / f"{name}.pem"
        bundle.write_bytes(tokens.certificate)
        auth = {
            "token": {
                "realm": tokens.realm,
                "service": tokens.service,
                "issuer": tokens.issuer,
                "rootcertbundle": str(bundle),
            }
        }
        process = self._start(name, auth=auth)
        return Registry(
            process.host, process, USER, PASSWORD, tokens=tokens, skopeo=["--tls-verify=false"]
        )

    def hostile(self) -> HostileRegistry:
        return HostileRegistry(self.loop)

    def proxy(self, registry: Registry | HostileRegistry, listen: str = "127.0.0.1") -> ChaosProxy:
        """A proxy in front of a registry that talks plain HTTP."""
        proxy = ChaosProxy(self.loop, f"http://{registry.host}", listen)
        self._undo.append(proxy.close)
        return proxy

    # -- putting images there ----------------------------------------------------------------------

    def put(self, registry: Registry, repository: str, tag: str, image: Pushable) -> str:
        """Upload as it is, byte for byte: the digest. For registries without a token service."""
        scheme = "https" if registry.tls else "http"
        base = f"{scheme}://{registry.host}"
        headers = {}
        if registry.user:
            login = base64.b64encode(f"{registry.user}:{registry.password}".encode()).decode()
            headers["Authorization"] = f"Basic {login}"
        tls: Any = registry.tls.context(client=True) if registry.tls else True

        async def upload() -> None:
            async with aiohttp.ClientSession(
                headers=headers, connector=aiohttp.TCPConnector(ssl=tls)
            ) as session:
                for digest, data in image.blobs().items():
                    async with session.post(f"{base}/v2/{repository}/blobs/uploads/") as started:
                        assert started.status == 202, await started.text()
                        place = started.headers["Location"]
                    sign = "&" if "?" in place else "?"
                    async with session.put(f"{place}{sign}digest={digest}", data=data) as done:
                        assert done.status == 201, await done.text()
                manifests = image.manifests()
                for manifest in manifests:
                    reference = tag if manifest is manifests[-1] else manifest.digest
                    async with session.put(
                        f"{base}/v2/{repository}/manifests/{reference}",
                        data=manifest.data,
                        headers={"Content-Type": manifest.media_type},
                    ) as done:
                        assert done.status == 201, await done.text()

        self.loop.run(upload())
        return image.digest

    def get(self, registry: Registry, path: str, accept: str = OCI_MANIFEST) -> tuple[int, bytes]:
        """(status, body) of a GET below /v2/ of a plain registry."""

        async def fetch() -> tuple[int, bytes]:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://{registry.host}/v2/{path}", headers={"Accept": accept}) as got,
            ):
                return got.status, await got.read()

        return self.loop.run(fetch())

    # -- commands in the namespace -----------------------------------------------------------------

    def sh(
        self,
        *command: str,
        check: bool = True,
        timeout: float = 60,
        env: dict[str, str] | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a program in the namespace; AssertionError with what it says if it fails."""
        done = subprocess.run(
            [*self._enter, *command],
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
            env={**os.environ, **(env or {})},
        )
        assert not check or done.returncode == 0, (command, done.stdout, done.stderr)
        return done

    def skopeo(self, *words: str, check: bool = True) -> str:
        """Output of ``skopeo words``: ``copy``, ``inspect`` ..."""
        done = self.sh("skopeo", "--insecure-policy", f"--tmpdir={self.root}", *words, check=check)
        return done.stdout if check else done.stdout + done.stderr

    def inspect(self, registry: Registry, image: str, *flags: str) -> dict[str, Any]:
        """What skopeo finds at ``repository:tag`` or ``repository@digest``."""
        user = [f"--creds={registry.user}:{registry.password}"] if registry.user else []
        found: dict[str, Any] = json.loads(
            self.skopeo(
                "inspect", *registry.skopeo, *user, *flags, f"docker://{registry.name(image)}"
            )
        )
        return found

    def raw(self, registry: Registry, image: str) -> str:
        """The manifest there, as it is."""
        user = [f"--creds={registry.user}:{registry.password}"] if registry.user else []
        return self.skopeo(
            "inspect", "--raw", *registry.skopeo, *user, f"docker://{registry.name(image)}"
        )

    def copy(
        self, source: str, target: str, *flags: str, to: Registry | None = None,
        of: Registry | None = None,
    ) -> None:  # fmt: skip
        """``skopeo copy``, with the options that the registries at the ends want."""
        words = list(flags)
        for side, registry in (("src", of), ("dest", to)):
            if registry is None:
                continue
            words += [word.replace("--", f"--{side}-", 1) for word in registry.skopeo]
            if registry.user:
                words.append(f"--{side}-creds={registry.user}:{registry.password}")
        self.skopeo("copy", *words, source, target)
