"""Which labels and variables of a container go into its log."""

from __future__ import annotations

import os

import pytest

from pyengine.contracts.logging import record_attributes
from pyengine.engine.model import Container, ContainerConfig, HostConfig
from pyengine.errors import InvalidParameter

CONTAINER = Container(
    id="0123456789abcdef",
    name="web",
    created="",
    path="nginx",
    args=["-g", "x"],
    image="sha256:" + "f" * 64,
    image_name="nginx:latest",
    config=ContainerConfig(
        env=["STAGE=test", "A=b=c", "BARE"], labels={"team": "one", "com.x": "two"}
    ),
    host_config=HostConfig(),
)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {}),
        ({"max-size": "1m", "labels": "", "tag": ""}, {}),
        ({"labels": "team,none", "env": "A,BARE"}, {"team": "one", "A": "b=c"}),
        ({"labels-regex": "^com", "env-regex": "AG"}, {"com.x": "two", "STAGE": "test"}),
        ({"tag": "fixed"}, {"tag": "fixed"}),
        (
            {"tag": "{{.Name}}/{{ .ID }}/{{.FullID}}"},
            {"tag": "web/0123456789ab/0123456789abcdef"},
        ),
        (
            {"tag": "{{.ImageName}} {{.ImageID}} {{.Command}}"},
            {"tag": "nginx:latest ffffffffffff nginx -g x"},
        ),
        ({"tag": "{{.Hostname}}"}, {"tag": os.uname().nodename}),
    ],
)
def test_attributes(options: dict[str, str], expected: dict[str, str]) -> None:
    assert record_attributes(CONTAINER, options) == expected


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"labels-regex": "("}, "invalid regular expression of log opt 'labels-regex'"),
        ({"tag": "{{.Nome}}"}, "log opt 'tag' asks for .Nome"),
        ({"tag": "{{upper .Name}}"}, "no template that this engine knows"),
    ],
)
def test_refused(options: dict[str, str], message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        record_attributes(CONTAINER, options)
