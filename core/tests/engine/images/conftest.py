"""The engine's parts for images and registries over one directory, and a registry."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from pyengine.config import Config
from pyengine.engine.background import Background
from pyengine.engine.calls import DriverCalls
from pyengine.engine.images.content import Content
from pyengine.engine.images.layers import Layers
from pyengine.engine.images.pull import Puller
from pyengine.engine.images.push import Pusher
from pyengine.engine.images.service import Images
from pyengine.engine.images.unpackers import Unpackers
from pyengine.hooks.manager import Hooks
from pyengine.registry.client import Registries
from pyengine.state.content import ContentStore
from pyengine.state.database import Database
from pyengine.testing.plain_storage import PlainStorage
from pyengine.testing.registry import SmallRegistry
from pyengine.testing.storage import context_for


class Distribution:
    """What pulls and pushes; ``again`` is the next daemon."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.storage = PlainStorage(context_for(root))
        self.hooks = Hooks()
        self.events: list[tuple[str, str, dict[str, str]]] = []
        self._open()

    def _open(self) -> None:
        self.database = Database(self.root / "db")
        self.content = Content(self.database, ContentStore(self.root / "content"))
        calls = DriverCalls(self.storage)
        self.unpackers = Unpackers(self.storage, calls)
        self.layers = Layers(
            self.database, self.storage, calls, self.unpackers, self.content, self.hooks,
            Background(), lambda: self.images.chains(),  # noqa: PLW0108 - they come later
        )  # fmt: skip
        self.images = Images(
            self.database, self.content, self.layers, lambda driver: self.layers, self.emit,
            self.hooks, lambda id: [],
        )  # fmt: skip
        self.registries = Registries(Config(), self.root)
        self.puller = Puller(self.images, self.registries, self.emit)
        self.pusher = Pusher(self.images, self.registries, self.emit)

    def emit(self, type: str, action: str, id: str, attributes: Mapping[str, str]) -> None:
        assert type == "image"
        self.events.append((action, id, dict(attributes)))

    def guard(self, plugin: object) -> None:
        """Let ``plugin`` take part with its hooks."""
        self.hooks.register(plugin, "guard")

    async def close(self) -> None:
        await self.unpackers.close()
        await self.registries.close()
        self.database.close()

    async def again(self) -> None:
        await self.close()
        self._open()
        await self.layers.start()
        await self.content.start()


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[Distribution]:
    made = Distribution(tmp_path)
    yield made
    await made.close()


@pytest.fixture
async def registry() -> AsyncIterator[SmallRegistry]:
    made = SmallRegistry()
    await made.start()
    yield made
    await made.close()
