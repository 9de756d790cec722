"""``images --tree`` of an engine that has images for several platforms."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

Run = Callable[..., Any]


def _member(kind: str, architecture: str, used: bool, total: int = 3_000_000) -> dict[str, Any]:
    platform = {"os": "linux", "architecture": architecture}
    if architecture == "arm64":
        platform["variant"] = "v8"
    data = {"Platform": platform, "Containers": ["c"] if used else []}
    return {
        "ID": f"sha256:{architecture * 8}",
        "Kind": kind,
        "Size": {"Total": total, "Content": 1_000_000},
        "ImageData": data if kind == "image" else None,
    }


def test_platforms_stand_below_their_image(engine: Any, pyengine: Run, monkeypatch: Any) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    members = [
        _member("image", "amd64", used=False),
        _member("attestation", "unknown", used=False),
        _member("image", "arm64", used=True),
    ]
    shared = {"Containers": -1, "Size": 6_000_000, "RepoDigests": []}
    several = {"Id": "sha256:" + "a" * 64, "Created": 1, "RepoTags": ["app:1", "reg/app:one"]}
    plain = {"Id": "sha256:" + "b" * 64, "Created": 2, "RepoTags": ["b:1"]}
    dangling = {"Id": "sha256:" + "d" * 64, "Created": 3, "RepoTags": []}
    images = [several | shared | {"Manifests": members}, plain | shared, dangling | shared]
    engine.on("GET /images/json", images)
    assert pyengine("images", "--tree").out.splitlines() == [
        " " * 62 + "Info ->  U In Use",
        "",
        "IMAGE               ID             DISK USAGE   CONTENT SIZE   EXTRA",
        "b:1                 bbbbbbbbbbbb          6MB             0B",
        "",
        "reg/app:one",
        "app:1               aaaaaaaaaaaa          6MB            3MB   U",
        "├─ linux/amd64      amd64amd64am          3MB            1MB",
        "└─ linux/arm64/v8   arm64arm64ar          3MB            1MB   U",
        "",
    ]
    assert "manifests=1" in engine.requests("GET /images/json")[-1].query
    assert "<untagged>          dddddddddddd" in pyengine("images", "--tree", "-a").out


def test_columns_that_have_no_room_are_left_out(
    engine: Any, pyengine: Run, monkeypatch: Any
) -> None:
    name = "registry.example/with/a/long/name:tag"
    image = {"Id": "sha256:" + "a" * 64, "Created": 1, "RepoTags": [name], "Size": 1}
    engine.on("GET /images/json", [image])
    monkeypatch.setenv("COLUMNS", "32")
    lines = pyengine("images", "--tree").out.splitlines()
    assert lines[2:] == ["IMAGE               ID", "registry.example…   aaaaaaaaaaaa"]
