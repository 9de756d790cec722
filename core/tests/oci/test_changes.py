"""``--change`` instructions."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from pyengine.engine.model import ContainerConfig
from pyengine.errors import InvalidParameter
from pyengine.oci.changes import apply_changes

SECOND = 10**9


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        (['CMD ["a", "b c"]'], {"Cmd": ["a", "b c"]}),
        (["cmd echo hi"], {"Cmd": ["/bin/sh", "-c", "echo hi"]}),
        (["CMD [broken"], {"Cmd": ["/bin/sh", "-c", "[broken"]}),
        (["ENTRYPOINT /x y"], {"Entrypoint": ["/bin/sh", "-c", "/x y"]}),
        (["ENV A=1", "ENV A=2 B=$A"], {"Env": ["A=2", "B=1"]}),
        (["ENV OLD the rest of it"], {"Env": ["OLD=the rest of it"]}),
        ([r'ENV A="x y" B=p\ q C=\$A'], {"Env": ["A=x y", "B=p q", "C=$A"]}),
        (["ENV A=", "ENV B=${A:-none} C=${B:+set} D='$A'"],
         {"Env": ["A=", "B=none", "C=", "D=$A"]}),
        (["EXPOSE 80 443/UDP 8000-8002"],
         {"ExposedPorts": {
             "80/tcp": {}, "443/udp": {}, "8000/tcp": {}, "8001/tcp": {}, "8002/tcp": {}}}),
        (["LABEL a=1 b.c='two words'"], {"Labels": {"a": "1", "b.c": "two words"}}),
        (["USER 1000:1000"], {"User": "1000:1000"}),
        (['VOLUME ["/a", "/b"]', "VOLUME /c /d"],
         {"Volumes": {"/a": {}, "/b": {}, "/c": {}, "/d": {}}}),
        (["WORKDIR /a", "WORKDIR b/../c"], {"WorkingDir": "/a/c"}),
        (["ONBUILD RUN make", "ONBUILD COPY . ."], {"OnBuild": ["RUN make", "COPY . ."]}),
        (["STOPSIGNAL SIGQUIT"], {"StopSignal": "SIGQUIT"}),
        (["HEALTHCHECK NONE"], {"Healthcheck": {"Test": ["NONE"]}}),
        (["HEALTHCHECK --interval=1m30s --retries=3 CMD curl x"],
         {"Healthcheck": {"Test": ["CMD-SHELL", "curl x"], "Interval": 90 * SECOND, "Retries": 3}}),
        (['HEALTHCHECK CMD ["curl", "x"]'], {"Healthcheck": {"Test": ["CMD", "curl", "x"]}}),
        (["# a comment", "", "USER a\nWORKDIR /w"], {"User": "a", "WorkingDir": "/w"}),
    ],
)  # fmt: skip
def test_applied(changes: list[str], expected: dict[str, Any]) -> None:
    result = msgspec.to_builtins(apply_changes(ContainerConfig(), changes))
    before = msgspec.to_builtins(ContainerConfig())
    different = {key: value for key, value in result.items() if value != before[key]}
    if health := different.get("Healthcheck"):
        different["Healthcheck"] = {key: value for key, value in health.items() if value}
    assert different == expected


def test_an_entrypoint_clears_the_command_that_was_there() -> None:
    config = ContainerConfig(cmd=["old"])
    assert apply_changes(config, ["ENTRYPOINT x"]).cmd is None
    assert apply_changes(config, ['CMD ["new"]', "ENTRYPOINT x"]).cmd == ["new"]
    assert config.cmd == ["old"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("RUN x", "RUN is not a valid change command"),
        ("FROM x", "FROM is not a valid change command"),
        ("ENV", "ENV requires at least one argument"),
        ("ENV A", "ENV must have two arguments"),
        ("LABEL a=1 b", "can't find = in"),
        ("EXPOSE", "EXPOSE requires at least one argument"),
        ("EXPOSE http", "Invalid containerPort: http"),
        ("EXPOSE 80/icmp", "invalid proto: icmp"),
        ("EXPOSE 70000", "Invalid containerPort: 70000"),
        ("USER", "USER requires exactly one argument"),
        ("VOLUME", "VOLUME requires at least one argument"),
        ("ONBUILD ONBUILD RUN x", "Chaining ONBUILD"),
        ("ONBUILD FROM x", "FROM isn't allowed as an ONBUILD trigger"),
        ("STOPSIGNAL !", "Invalid signal"),
        ("HEALTHCHECK curl", "Unknown type"),
        ("HEALTHCHECK CMD", "Missing command after HEALTHCHECK CMD"),
        ("HEALTHCHECK NONE x", "takes no arguments"),
        ("HEALTHCHECK --interval=x CMD y", "invalid duration"),
        ("HEALTHCHECK --colour=x CMD y", "unknown flag: --colour"),
    ],
)
def test_refused(change: str, message: str) -> None:
    with pytest.raises(InvalidParameter, match=message):
        apply_changes(ContainerConfig(), [change])
