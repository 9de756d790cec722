"""Images that come from a registry and go to one."""

from __future__ import annotations

from tests.compare.cases.common import case
from tests.compare.steps import api, data, docker, quiet

#: dockerd tells some of this only if it takes long enough.
BRIEF = ((r"(?m)^[0-9a-f]{12}: (Waiting|Verifying Checksum|Download complete)\n", ""),)

#: Manifests are spaced in different ways.
SIZES = ((r"(?m) size: \d+$", " size: <n>"),)

case(
    "pull",
    docker("pull {registry}/two:1", lines=True, rules=BRIEF),
    docker("pull {registry}/two:1"),
    docker("pull -q {registry}/two:1"),
    docker("pull {registry}/two:2", lines=True, rules=BRIEF),
    docker("images {registry}/two", lines=True),
    docker("images --digests {registry}/two", lines=True),
    docker("images {registry}/two:1 --format '{{.Repository}} {{.Tag}} {{.Digest}}'"),
    data("image inspect {registry}/two:1"),
    docker("history {registry}/two:1"),
    docker("run --rm {registry}/two:1 cat /greeting"),
    docker("run --rm --pull always -q {registry}/two:2 cat /greeting"),
    docker("rmi {registry}/two:2"),
    docker("run --rm {registry}/two:2 cat /greeting", rules=BRIEF),
    docker("rmi {registry}/two:1 {registry}/two:2"),
    docker("pull {registry}/two@{digest}", lines=True, rules=BRIEF),
    docker("images --digests {registry}/two"),
    docker("images --filter dangling=true"),
    data("image inspect {registry}/two@{digest}"),
    docker("run --rm {registry}/two@{digest} cat /greeting"),
    docker("tag {registry}/two@{digest} cmp-t:1"),
    docker("rmi {registry}/two@{digest}"),
    docker("images cmp-t"),
    docker("rmi cmp-t:1"),
    api("GET", "/images/json"),
)

case(
    "pull-all",
    docker("pull -a {registry}/two", lines=True, rules=BRIEF),
    docker("images {registry}/two", lines=True),
    docker("pull -a -q {registry}/two", lines=True, rules=BRIEF),
    docker("pull -a {registry}/two:1"),
    docker("rmi {registry}/two:1"),
    docker("rmi {registry}/two:2"),
)

case(
    "pull-platform",
    docker("pull {registry}/many:1", lines=True, rules=BRIEF),
    docker("image inspect -f '{{.Architecture}}' {registry}/many:1"),
    docker("pull --platform linux/arm64 {registry}/many:1", lines=True, rules=BRIEF),
    docker("image inspect -f '{{.Architecture}} {{.Variant}}' {registry}/many:1"),
    docker("run --rm --platform linux/amd64 --pull never {registry}/many:1 true"),
    docker("pull --platform linux/s390x {registry}/many:1"),
    docker("pull --platform nonsense {registry}/many:1"),
    docker("pull {registry}/far:1"),
    docker("pull {registry}/thing:1"),
)

case(
    "pull-mistakes",
    docker("pull {registry}/two:missing"),
    docker("pull {registry}/missing"),
    docker("pull {registry}/two@sha256:" + "0" * 64),
    docker("pull {registry}/two@sha256:0000"),
    docker("pull {registry}/UPPER"),
    docker("pull -q {registry}/two:missing"),
    docker("pull 127.0.0.1:1/two:1"),
    docker("run --rm {registry}/two:missing true"),
    docker("create {registry}/missing true"),
    api("POST", "/images/create"),
    api("POST", "/images/create?fromImage="),
    api("POST", "/images/create?fromImage={registry}/two&tag=missing"),
    api("POST", "/images/create?fromImage={registry}/two:1&platform=nonsense"),
    api("POST", "/images/create?fromImage=UPPER"),
    api("POST", "/images/create?fromImage=scratch"),
)

case(
    "push",
    quiet("tag compare {registry}/cmp/mine:1"),
    docker("push {registry}/cmp/mine:1", lines=True, rules=SIZES),
    docker("push {registry}/cmp/mine:1", lines=True, rules=SIZES),
    docker("push -q {registry}/cmp/mine:1"),
    docker("images --digests {registry}/cmp/mine"),
    data("image inspect {registry}/cmp/mine:1"),
    quiet("tag compare {registry}/cmp/mine:2"),
    docker("push {registry}/cmp/mine:2", lines=True, rules=SIZES),
    docker("push -a {registry}/cmp/mine", lines=True, rules=SIZES),
    quiet("tag compare {registry}/cmp/other:1"),
    docker("push {registry}/cmp/other:1", lines=True, rules=SIZES),
    docker("push {registry}/cmp/mine:missing"),
    docker("push {registry}/cmp/missing"),
    docker("push {registry}/cmp/missing:1"),
    docker("push -a {registry}/cmp/mine:1"),
    docker("push {registry}/UPPER"),
    quiet("tag compare 127.0.0.1:1/mine:1"),
    docker("push 127.0.0.1:1/mine:1", lines=True, rules=SIZES),
    quiet("rmi 127.0.0.1:1/mine:1"),
    api("POST", "/images/compare/push"),
    docker("rmi {registry}/cmp/mine:1"),
    docker("rmi {registry}/cmp/mine:2"),
    docker("rmi {registry}/cmp/other:1"),
    docker("pull {registry}/cmp/mine:1", lines=True, rules=BRIEF),
    docker("run --rm {registry}/cmp/mine:1 sh -c 'echo $COLOUR'"),
)

case(
    "distribution",
    api("GET", "/distribution/{registry}/two:1/json"),
    api("GET", "/distribution/{registry}/two@{digest}/json"),
    api("GET", "/distribution/{registry}/many:1/json"),
    api("GET", "/distribution/{registry}/two:missing/json"),
    api("GET", "/distribution/{registry}/missing:1/json"),
    api("GET", "/distribution/UPPER/json"),
    docker("login -u somebody -p wrong 127.0.0.1:1"),
)
