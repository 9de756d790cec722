"""What a running daemon can change when it reads its configuration again."""

from __future__ import annotations

from collections.abc import Collection

from pyengine.config.keys import FIELDS, Config

#: Keys that SIGHUP changes in a running daemon; the others wait for its next start.
RELOADABLE = {
    "debug", "log-level", "labels", "shutdown-timeout", "live-restore",
    "registry-mirrors", "insecure-registries", "registries", "max-concurrent-downloads",
    "max-concurrent-uploads", "max-download-attempts", "proxies", "http-proxy", "https-proxy",
    "no-proxy", "runtimes", "default-runtime", "default-shm-size", "default-ipc-mode",
    "default-cgroupns-mode", "features", "default-stop-timeout", "min-api-version",
}  # fmt: skip


def changes(old: Config, new: Config) -> list[str]:
    """Keys whose values differ."""
    return [
        key for key, field in FIELDS.items() if getattr(old, field.name) != getattr(new, field.name)
    ]


def adopt(running: Config, new: Config, more: Collection[str] = ()) -> None:
    """Let ``running`` have the values of ``new`` where a running daemon can change; ``more``: keys
    whose plugins could."""
    for key in RELOADABLE.union(more):
        name = FIELDS[key].name
        setattr(running, name, getattr(new, name))
