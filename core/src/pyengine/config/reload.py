"""What a running daemon can change when it reads its configuration again."""

from __future__ import annotations

from pyengine.config.keys import FIELDS, Config

#: Keys that SIGHUP changes in a running daemon; the others wait for its next start.
RELOADABLE = {
    "debug", "log-level", "labels", "shutdown-timeout", "live-restore",
    "registry-mirrors", "insecure-registries", "registries", "max-concurrent-downloads",
    "max-concurrent-uploads", "max-download-attempts", "proxies", "http-proxy", "https-proxy",
    "no-proxy",
}  # fmt: skip


def changes(old: Config, new: Config) -> list[str]:
    """Keys whose values differ."""
    return [
        key for key, field in FIELDS.items() if getattr(old, field.name) != getattr(new, field.name)
    ]


def adopt(running: Config, new: Config) -> None:
    """Let ``running`` have the values of ``new`` where a running daemon can change."""
    for key in RELOADABLE:
        name = FIELDS[key].name
        setattr(running, name, getattr(new, name))
