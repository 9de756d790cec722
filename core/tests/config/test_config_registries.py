"""Keys of registries in daemon.json and flags: validated as dockerd does, reloaded in place."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from pyengine.config import (
    RELOADABLE,
    Config,
    Proxies,
    RegistryEntry,
    adopt,
    changes,
    load,
)
from pyengine.errors import ConfigError
from pyengine.registry import names


def read(path: Path, values: Any, *flags: str) -> Config:
    path.write_text(values if isinstance(values, str) else json.dumps(values))
    loaded = load(["--config-file", str(path), *flags])
    assert loaded.file == path
    return loaded.config


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "daemon.json"


def test_defaults(file: Path) -> None:
    config = read(file, {})
    assert config.registry_mirrors == config.insecure_registries == []
    assert config.registries == {}
    assert config.max_concurrent_downloads == 3
    assert config.max_concurrent_uploads == config.max_download_attempts == 5


def test_file_and_flags(file: Path, tmp_path: Path) -> None:
    for name in ("ca.pem", "c.pem", "k.pem"):
        (tmp_path / name).touch()
    entry = {
        "mirrors": ["https://mirror.example/ghcr"],
        "insecure": True,
        "ca": str(tmp_path / "ca.pem"),
        "client-cert": str(tmp_path / "c.pem"),
        "client-key": str(tmp_path / "k.pem"),
    }
    config = read(
        file,
        {"registries": {"ghcr.io": entry}, "proxies": {"https-proxy": "http://p.example:1"}},
        "--registry-mirror", "https://a.example", "--registry-mirror", "http://b.example:5000/x/",
        "--insecure-registry", "reg.example:5000", "--insecure-registry", "10.0.0.0/8",
        "--max-concurrent-downloads", "7", "--http-proxy", "http://q.example",
    )  # fmt: skip
    assert config.registry_mirrors == ["https://a.example", "http://b.example:5000/x/"]
    assert config.insecure_registries == ["reg.example:5000", "10.0.0.0/8"]
    assert config.max_concurrent_downloads == 7
    assert config.proxies == Proxies(https_proxy="http://p.example:1")
    assert config.http_proxy == "http://q.example"
    assert config.registries["ghcr.io"] == RegistryEntry(
        mirrors=["https://mirror.example/ghcr"],
        insecure=True,
        ca=str(tmp_path / "ca.pem"),
        client_cert=str(tmp_path / "c.pem"),
        client_key=str(tmp_path / "k.pem"),
    )


def test_every_mistake_with_its_line(file: Path) -> None:
    text = """{
  "registry-mirrors": [
    "https://good.example",
    "ftp://mirror.example",
    "https://user:secret@mirror.example"
  ],
  "insecure-registries": ["-x", "reg.example:99999"],
  "max-concurrent-uploads": -3,
  "proxies": {"http-proxy": "socks5://p.example"},
  "registries": {
    "ghcr.io": {"mirrors": ["mirror.example"]},
    "quay.io": {"ca": "/nonexistent/ca.pem",
                "client-cert": "/dev/null/x"},
    "docker.io": {"insecure": true},
    "a b": {}
  }
}"""
    with pytest.raises(ConfigError) as caught:
        read(file, text, "--registry-mirror", "nothing", "--max-download-attempts", "-1")
    must = "must use either 'https://' or 'http://'"
    assert caught.value.detail.strip().split("\n  ") == [
        f"{file}:4: 'registry-mirrors': invalid mirror: unsupported scheme \"ftp\" in "
        f'"ftp://mirror.example": {must}',
        f"{file}:5: 'registry-mirrors': invalid mirror: username/password not allowed in URI "
        '"https://user:xxxxx@mirror.example"',
        f"{file}:7: 'insecure-registries': invalid index name (-x). Cannot begin or end with a "
        "hyphen",
        f"{file}:7: 'insecure-registries': insecure registry reg.example:99999 is not valid: "
        'invalid port "99999"',
        f"{file}:8: 'max-concurrent-uploads': invalid max concurrent uploads: -3",
        f"{file}:9: 'proxies': invalid proxy 'socks5://p.example': only http:// and https:// "
        "proxies are supported",
        f"{file}:11: 'registries': ghcr.io: invalid mirror: no scheme specified for "
        f'"mirror.example": {must}',
        f"{file}:12: 'registries': quay.io: ca: /nonexistent/ca.pem: no such file",
        f"{file}:13: 'registries': quay.io: client-cert: /dev/null/x: no such file",
        f"{file}:12: 'registries': quay.io: client-cert and client-key belong together",
        f"{file}:14: 'registries': docker.io: the default registry cannot be insecure",
        f"{file}:15: 'registries': a b: invalid host \"a b\"",
        f'--registry-mirror: invalid mirror: no scheme specified for "nothing": {must}',
        "--max-download-attempts: invalid max download attempts: -1",
    ]


def test_unknown_keys_of_a_registry(file: Path) -> None:
    with pytest.raises(ConfigError, match="Object contains unknown field `mirror`"):
        read(file, {"registries": {"ghcr.io": {"mirror": []}}})


@pytest.mark.parametrize(
    ("mirror", "problem"),
    [
        ("https://m.example", ""),
        ("https://m.example:5000/a/b/", ""),
        ("http://[::1]:5000", ""),
        ("m.example:5000", "no scheme specified"),
        ("://m.example", "no scheme specified"),
        ("https://m.example/?x=1", "query or fragment at end of the URI"),
        ("https://m.example#x", "query or fragment at end of the URI"),
        ("https://", "names no host"),
        ("https://m.example:x", "is not a valid URI"),
        ("unix:///x", 'unsupported scheme "unix"'),
    ],
)
def test_mirrors(mirror: str, problem: str) -> None:
    said = names.check_mirror(mirror)
    assert problem in said
    assert bool(said) == bool(problem)


@pytest.mark.parametrize(
    ("registry", "good"),
    [
        ("reg.example", True),
        ("reg.example:5000", True),
        ("[2001:db8::1]:5000", True),
        ("2001:db8::1", True),
        ("10.0.0.0/8", True),
        ("2001:db8::/32", True),
        ("http://reg.example", True),
        ("ftp://reg.example", False),
        ("reg.example/path", False),
        ("reg_example", False),
        ("reg.example-", False),
        ("", False),
    ],
)
def test_insecure_registries(registry: str, good: bool) -> None:
    assert (names.check_insecure(registry) == "") is good


def test_what_a_running_daemon_takes_over() -> None:
    running = Config()
    new = Config(
        debug=True,
        labels=["a=b"],
        registry_mirrors=["https://m.example"],
        registries={"ghcr.io": RegistryEntry(insecure=True)},
        max_concurrent_uploads=1,
        mtu=1400,
    )
    changed = changes(running, new)
    assert changed == [
        "debug", "labels", "mtu", "registry-mirrors", "registries", "max-concurrent-uploads",
    ]  # fmt: skip
    adopt(running, new)
    assert running.mtu == 0
    running.mtu = 1400
    assert running == new
    assert set(changed) - RELOADABLE == {"mtu"}
