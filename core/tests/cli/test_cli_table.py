"""Listings: columns, published ports, rows of containers and images."""

from __future__ import annotations

import json
from typing import Any

import pytest

from pyengine.cli import table
from pyengine.cli.commands.images import image_rows
from pyengine.cli.commands.ps import ContainerRow
from pyengine.cli.ports import displayable, parse_expose, parse_publish


def test_columns_line_up() -> None:
    text = table.align("ID\tNAME\tX\n1\ta-rather-long-name\ty\n")
    assert text == "ID        NAME                 X\n1         a-rather-long-name   y\n"


def test_a_line_without_the_cell_ends_a_column() -> None:
    text = table.align("Head:\n a:\t1\n bb:\t2\n\nNext:\n cccccccc:\t3\n", minimum=4, padding=1)
    assert text == "Head:\n a:  1\n bb: 2\n\nNext:\n cccccccc: 3\n"


def test_wide_characters_take_two_columns() -> None:
    lines = table.align("日本\tx\nab\tx\n", minimum=0, padding=1).split("\n")
    assert lines[:2] == ["日本 x", "ab   x"]


@pytest.mark.parametrize(
    ("text", "limit", "cut"),
    [("short", 20, "short"), ("x" * 21, 20, "x" * 19 + "…"), ("日本語", 5, "日本…")],
)
def test_ellipsis(text: str, limit: int, cut: str) -> None:
    assert table.ellipsis(text, limit) == cut


def test_natural_order() -> None:
    assert sorted(["v10", "v9", "a", "v1b"], key=table.natural) == ["a", "v1b", "v9", "v10"]


def _port(private: int, public: int = 0, ip: str = "", kind: str = "tcp") -> dict[str, Any]:
    port: dict[str, Any] = {"PrivatePort": private, "Type": kind}
    return {**port, "PublicPort": public, "IP": ip} if ip else port


@pytest.mark.parametrize(
    ("ports", "shown"),
    [
        ([], ""),
        ([_port(80)], "80/tcp"),
        ([_port(82), _port(80), _port(81)], "80-82/tcp"),
        (
            [_port(80, 8080, "0.0.0.0"), _port(80, 8080, "::")],
            "0.0.0.0:8080->80/tcp, [::]:8080->80/tcp",
        ),
        ([_port(80, 80, "0.0.0.0"), _port(81, 81, "0.0.0.0")], "0.0.0.0:80-81->80-81/tcp"),
        ([_port(53, kind="udp"), _port(53)], "53/tcp, 53/udp"),
        ([_port(80), _port(82), _port(9, 10, "1.2.3.4")], "80/tcp, 82/tcp, 1.2.3.4:10->9/tcp"),
    ],
)
def test_ports_shown(ports: list[dict[str, Any]], shown: str) -> None:
    assert displayable(ports) == shown


def _binding(ip: str, port: str) -> dict[str, str]:
    return {"HostIp": ip, "HostPort": port}


@pytest.mark.parametrize(
    ("text", "pairs"),
    [
        ("80", [("80/tcp", _binding("", ""))]),
        ("8080:80", [("80/tcp", _binding("", "8080"))]),
        ("127.0.0.1::80/udp", [("80/udp", _binding("127.0.0.1", ""))]),
        ("[::1]:8080:80", [("80/tcp", _binding("::1", "8080"))]),
        ("8000-8001:80-81", [("80/tcp", _binding("", "8000")), ("81/tcp", _binding("", "8001"))]),
        ("8000-8009:80", [("80/tcp", _binding("", "8000-8009"))]),
        ("published=8080,target=80,protocol=udp", [("80/udp", _binding("", "8080"))]),
    ],
)
def test_publish(text: str, pairs: list[tuple[str, dict[str, str]]]) -> None:
    assert parse_publish(text) == pairs


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("abc:x", "invalid containerPort: x"),
        ("x:80", "invalid hostPort: x"),
        ("99999", "invalid containerPort: 99999"),
        ("1.2.3:80:80", "invalid IP address: 1.2.3"),
        ("80/foo", "invalid proto: foo"),
        (
            "8000-8001:80-82",
            "invalid ranges specified for container and host Ports: 80-82 and 8000-8001",
        ),
        ("8080:", "no port specified: 8080:<empty>"),
    ],
)
def test_publish_refused(text: str, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        parse_publish(text)


def test_expose() -> None:
    assert parse_expose("80-82/udp") == ["80/udp", "81/udp", "82/udp"]
    with pytest.raises(ValueError, match="invalid port format"):
        parse_expose("80:80")


CONTAINER: dict[str, Any] = {
    "Id": "a" * 64,
    "Names": ["/other/link", "/web"],
    "Image": "docker.io/library/nginx@sha256:" + "b" * 64,
    "ImageID": "sha256:" + "c" * 64,
    "Command": 'sh -c "echo a-long-command"',
    "Created": 1000,
    "State": "running",
    "Status": "Up 3 seconds",
    "Labels": {"b": "2", "a": "1"},
    "Mounts": [{"Name": "data-of-the-web-server", "Driver": "local"}, {"Source": "/srv"}],
    "NetworkSettings": {"Networks": {"bridge": {}}},
    "SizeRw": 12,
    "SizeRootFs": 1984000,
}


def test_container_row_truncates() -> None:
    row = ContainerRow(CONTAINER, True, 1000 + 7200)
    assert row.ID() == "a" * 12
    assert row.Names() == "web"
    assert row.Image() == "nginx"
    assert row.Command() == '"sh -c \\"echo a-long-…"'
    assert row.RunningFor() == "2 hours ago"
    assert row.Mounts() == "data-of-the-we…,/srv"
    assert row.Size() == "12B (virtual 1.98MB)"
    assert row.LocalVolumes() == "1"


def test_container_row_in_full() -> None:
    row = ContainerRow(CONTAINER, False, 1000)
    assert row.ID() == "a" * 64
    assert row.Names() == "other/link,web"
    assert row.Image() == CONTAINER["Image"]
    assert row.Command() == '"sh -c \\"echo a-long-command\\""'
    assert row.Label("a") == "1"
    assert row.Label("none") == ""


def test_table_of_a_template_has_headings() -> None:
    rows = [ContainerRow(CONTAINER, True, 1000)]
    text = table.render(
        'table {{.Names}}\\t{{upper .State}}\\t{{.Label "a"}}', rows, ContainerRow.HEADERS
    )
    assert text == "NAMES     STATE     a\nweb       RUNNING   1\n"


def test_json_rows_are_sorted_and_escaped() -> None:
    row = ContainerRow({**CONTAINER, "Ports": [_port(80, 8080, "0.0.0.0")]}, True, 1000)
    text = table.render("json", [row], ContainerRow.HEADERS)
    assert "0.0.0.0:8080-\\u003e80/tcp" in text
    fields = json.loads(text)
    assert list(fields) == sorted(fields)
    assert fields["Platform"] is None


def _names(image: dict[str, Any], digests: bool) -> list[tuple[str, str, str]]:
    full = {"Id": "sha256:" + "a" * 64, "Created": 0, "Size": 1, **image}
    rows = image_rows(full, True, digests)
    return [(row.Repository(), row.Tag(), row.Digest()) for row in rows]


@pytest.mark.parametrize(
    ("image", "digests", "rows"),
    [
        ({"RepoTags": None}, False, [("<none>", "<none>", "<none>")]),
        (
            {"RepoTags": ["docker.io/library/a:1", "reg:5000/a:2"]},
            False,
            [("a", "1", "<none>"), ("reg:5000/a", "2", "<none>")],
        ),
        ({"RepoTags": ["a:1"], "RepoDigests": ["a@sha256:1"]}, False, [("a", "1", "<none>")]),
        ({"RepoTags": ["a:1"], "RepoDigests": ["a@sha256:1"]}, True, [("a", "1", "sha256:1")]),
        ({"RepoDigests": ["a@sha256:1"]}, False, [("a", "<none>", "")]),
        ({"RepoDigests": ["a@sha256:1"]}, True, [("a", "<none>", "sha256:1")]),
    ],
)
def test_image_rows(image: dict[str, Any], digests: bool, rows: list[tuple[str, str, str]]) -> None:
    assert _names(image, digests) == rows
