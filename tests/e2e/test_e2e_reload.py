"""SIGHUP: what a running daemon takes over, what it tells of it, and what it does not touch."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Site, eventually
from tests.registries import images


@pytest.fixture(autouse=True)
def unconfigured(site: Site) -> Iterator[None]:
    yield
    site.daemon_json.write_text("{}")


def info(site: Site) -> dict[str, Any]:
    status, body = site.engine.api("GET", "/info")
    assert status == 200
    return dict(body)


def logged(site: Site, since: int, text: str) -> bool:
    return text in site.engine.log.read_text()[since:]


def test_info_and_event_tell_the_new_configuration(site: Site) -> None:
    began = time.time()
    site.reload(
        labels=["a=b"],
        registry_mirrors=["https://mirror.example"],
        insecure_registries=["registry.example:5000", "10.1.0.0/16"],
        registries={"ghcr.io": {"mirrors": ["https://cache.example/ghcr"]}},
        max_concurrent_downloads=9,
        proxies={"https-proxy": "http://user:secret@proxy.example:3128", "no-proxy": "*"},
    )
    now = info(site)
    assert now["Labels"] == ["a=b"]
    assert now["HttpsProxy"] == "http://xxxxx:xxxxx@proxy.example:3128"
    assert now["NoProxy"] == "*"
    registries = now["RegistryConfig"]
    assert registries["Mirrors"] == ["https://mirror.example/"]
    assert registries["InsecureRegistryCIDRs"] == ["10.1.0.0/16", "::1/128", "127.0.0.0/8"]
    assert registries["IndexConfigs"]["registry.example:5000"]["Secure"] is False
    assert registries["IndexConfigs"]["ghcr.io"]["Mirrors"] == ["https://cache.example/ghcr/"]
    assert " Registry Mirrors:\n  https://mirror.example/" in site.out("info")

    line = site.out("events", f"--since={began}", f"--until={time.time()}", "--filter",
                    "type=daemon", "--format", "{{json .}}")  # fmt: skip
    event = json.loads(line.splitlines()[-1])
    assert (event["Type"], event["Action"], event["Actor"]["ID"]) == ("daemon", "reload", now["ID"])
    told = event["Actor"]["Attributes"]
    assert told["name"] == now["Name"]
    assert json.loads(told["registry-mirrors"]) == ["https://mirror.example"]
    assert (told["max-concurrent-downloads"], told["max-concurrent-uploads"]) == ("9", "5")

    site.reload()
    again = info(site)
    assert again["Labels"] in ([], None)
    assert again["RegistryConfig"]["Mirrors"] is None
    assert again["HttpsProxy"] == ""


def test_a_file_with_mistakes_changes_nothing(site: Site) -> None:
    site.reload(labels=["kept=1"])
    since = site.engine.log.stat().st_size
    site.daemon_json.write_text('{\n"labels": ["new=1"],\n"mtuu": 1,\n"registry-mirrors": ["x"]\n}')
    site.hangup()
    assert eventually(lambda: logged(site, since, "reload: nothing was changed"))
    assert logged(site, since, f"{site.daemon_json}:3: unknown key 'mtuu' (did you mean 'mtu'?)")
    assert logged(site, since, f"{site.daemon_json}:4: 'registry-mirrors': invalid mirror")
    assert info(site)["Labels"] == ["kept=1"]
    # What only a driver, or a look at several keys, finds wrong is as wrong.
    for values, words in (
        ({"default-runtime": "nowhere"}, "default-runtime: no runtime driver 'nowhere'"),
        ({"log-opts": {"max-sise": "1"}}, "log-opts: unknown log opt 'max-sise'"),
        ({"icc": False, "iptables": False}, "icc is false and iptables is false"),
        ({"default-shm-size": "much"}, "'default-shm-size': invalid size 'much'"),
    ):
        since = site.engine.log.stat().st_size
        site.daemon_json.write_text(json.dumps({"labels": ["new=1"], **values}))
        site.hangup()
        assert eventually(lambda: logged(site, since, "reload: nothing was changed"))  # noqa: B023
        assert logged(site, since, words)
        assert info(site)["Labels"] == ["kept=1"]


def test_what_has_to_wait_is_named(site: Site) -> None:
    since = site.engine.log.stat().st_size
    site.reload(mtu=1300, ip_forward=False, labels=["x=y"])
    assert logged(site, since, "reload: from the next start on: ip-forward, mtu")
    assert info(site)["Labels"] == ["x=y"]


def test_debug_is_switched(site: Site) -> None:
    """The flag --debug of this engine beats the file, which is said once more."""
    since = site.engine.log.stat().st_size
    site.reload(debug=False)
    assert logged(site, since, "debug: the flag's True is used, not False")
    assert info(site)["Debug"] is True


def test_how_many_transfers_go_on_at_once(site: Site) -> None:
    plain = site.lab.plain()
    source, target = site.lab.proxy(plain), site.lab.proxy(plain)
    source.pause = target.pause = 0.05
    site.lab.put(plain, "atonce", "1", images.large_image(4, 20_000))
    name = source.name("atonce:1")

    def most(downloads: int, uploads: int) -> tuple[int, int]:
        """Transfers at once of a pull, and of a push to another host."""
        site.reload(max_concurrent_downloads=downloads, max_concurrent_uploads=uploads)
        copy = target.name(f"copy{uploads}:1")
        source.log.clear()
        target.log.clear()
        site("pull", name)
        site("tag", name, copy)
        site("push", copy)
        site("rmi", name, copy)
        return source.most_at_once("GET"), target.most_at_once("PUT", "PATCH")

    assert most(1, 2) == (1, 2)
    assert most(3, 1) == (3, 1)


def test_defaults_of_containers_count_for_the_next_one(site: Site) -> None:
    site("import", "-c", "CMD sh", str(site.busybox), "busybox:latest")

    def made(name: str) -> dict[str, Any]:
        site("create", "--name", name, "busybox")
        found = json.loads(site.out("inspect", name))[0]["HostConfig"]
        return {key: found[key] for key in ("ShmSize", "IpcMode", "CgroupnsMode", "Runtime")}

    before = made("before")
    began = time.time()
    site.reload(
        default_shm_size="8m",
        default_ipc_mode="shareable",
        default_cgroupns_mode="private",
        runtimes={"mine": {"runtimeType": "native"}, "other": {"path": "/usr/bin/other"}},
        default_runtime="mine",
        features={"buildkit": False, "cdi": False},
        default_stop_timeout=1,
        min_api_version="1.40",
    )
    assert made("after") == {
        "ShmSize": 8 << 20, "IpcMode": "shareable", "CgroupnsMode": "private", "Runtime": "mine",
    }  # fmt: skip
    shown = site.out("run", "--rm", "--network", "none", "busybox", "df", "-k", "/dev/shm")
    assert "8192" in shown
    now = info(site)
    assert now["DefaultRuntime"] == "mine"
    assert now["Runtimes"]["other"]["path"] == "/usr/bin/other"
    assert now["CDISpecDirs"] == []
    assert site.engine.api("GET", "/v1.39/info")[0] == 400
    assert "Builder-Version: 1" in site.lab.sh(
        "curl", "-si", "--unix-socket", str(site.engine.socket), "http://docker/_ping"
    ).stdout  # fmt: skip
    line = site.out("events", f"--since={began}", f"--until={time.time()}", "--filter",
                    "event=reload", "--format", "{{json .Actor.Attributes}}")  # fmt: skip
    told = json.loads(line.splitlines()[-1])
    assert told["default-shm-size"] == str(8 << 20)
    assert told["default-ipc-mode"] == "shareable"
    assert told["default-cgroupns-mode"] == "private"
    assert told["default-runtime"] == "mine"
    assert sorted(told["runtimes"].split()) == ["mine:native", "other:/usr/bin/other"]
    assert json.loads(told["features"]) == {"buildkit": False, "cdi": False}

    site("run", "-d", "--name", "stubborn", "--network", "none", "busybox", "sh", "-c",
         "trap '' TERM; while :; do sleep 0.1; done")  # fmt: skip
    started = time.monotonic()
    site("stop", "stubborn")
    assert time.monotonic() - started < 5
    site.reload()
    assert made("again") == before
    site("rm", "-f", "before", "after", "again", "stubborn")
