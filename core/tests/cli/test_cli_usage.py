"""system df and search."""

from __future__ import annotations

import base64
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., Any]

WHERE = {"Scope": "local", "Mountpoint": "/m"}
USAGE = {
    "LayersSize": 3_000_000,
    "Images": [
        {
            "Id": "sha256:" + "a" * 64, "RepoTags": ["docker.io/library/web:v1", "web:v2"],
            "Created": 0, "Size": 2_000_000, "SharedSize": 500_000, "Containers": 2,
        },
        {
            "Id": "sha256:" + "b" * 64, "RepoTags": ["<none>:<none>"],
            "Created": 0, "Size": 1_500_000, "SharedSize": 500_000, "Containers": 0,
        },
        {
            "Id": "sha256:" + "c" * 64, "RepoTags": None,
            "Created": 0, "Size": 10, "SharedSize": -1, "Containers": 1,
        },
    ],
    "Containers": [
        {
            "Id": "d" * 64, "Image": "web:v1", "ImageID": "sha256:" + "a" * 64, "Created": 0,
            "Command": "httpd -f", "Mounts": [{"Driver": "local"}], "SizeRw": 1000,
            "SizeRootFs": 2_001_000, "State": "running", "Status": "Up 2 hours", "Names": ["/one"],
        },
        {
            "Id": "e" * 64, "Image": "web:v1", "ImageID": "sha256:" + "a" * 64, "Created": 0,
            "Command": "true", "SizeRw": 3000, "State": "exited",
            "Status": "Exited (0) 1 hour ago", "Names": ["/two"],
        },
    ],
    "Volumes": [
        {"Name": "data", "Driver": "local", **WHERE, "UsageData": {"Size": 4000, "RefCount": 1}},
        {"Name": "left", "Driver": "local", **WHERE, "UsageData": {"Size": 1000, "RefCount": 0}},
        {"Name": "nfs", "Driver": "x", **WHERE, "UsageData": {"Size": -1, "RefCount": 0}},
    ],
    "BuildCache": [
        {
            "ID": "f" * 25, "Type": "regular", "Size": 700, "InUse": False, "Shared": False,
            "UsageCount": 3, "CreatedAt": "1970-01-01T00:00:00Z", "Parents": ["p"],
            "LastUsedAt": "1970-01-01T01:00:00Z",
        },
        {
            "ID": "g" * 25, "Type": "source.local", "Size": 300, "InUse": True, "Shared": False,
            "UsageCount": 1, "CreatedAt": "1970-01-01T00:00:00Z", "Description": "context",
        },
    ],
    "BuilderSize": 1000,
}  # fmt: skip


@pytest.fixture(autouse=True)
def two_hours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 7200.0)


def test_df(engine: Any, pyengine: Run) -> None:
    engine.on("GET /system/df", USAGE)
    assert pyengine("system", "df").out == (
        "TYPE            TOTAL     ACTIVE    SIZE      RECLAIMABLE\n"
        "Images          3         2         3MB       1.5MB (50%)\n"
        "Containers      2         1         4kB       3kB (75%)\n"
        "Local Volumes   3         1         5kB       1kB (20%)\n"
        "Build Cache     2         1         1kB       700B\n"
    )
    assert pyengine("system", "df", "--format", "{{.Type}}={{.Reclaimable}}").out == (
        "Images=1.5MB (50%)\nContainers=3kB (75%)\nLocal Volumes=1kB (20%)\nBuild Cache=700B\n"
    )
    raw = pyengine("system", "df", "--format", "raw").out.splitlines()
    assert raw[5:11] == [
        "", "type: Containers", "total: 2", "active: 1", "size: 4kB", "reclaimable: 3kB (75%)",
    ]  # fmt: skip


def test_df_of_nothing(engine: Any, pyengine: Run) -> None:
    engine.on("GET /system/df", {"LayersSize": 0, "Images": [], "Containers": None})
    rows = pyengine("system", "df").out.splitlines()[1:]
    assert [row.split()[-4:] for row in rows] == [["0", "0", "0B", "0B"]] * 4


def test_df_in_detail(engine: Any, pyengine: Run) -> None:
    engine.on("GET /system/df", USAGE)
    assert pyengine("system", "df", "-v").out == (
        "Images space usage:\n"
        "\n"
        "REPOSITORY   TAG       IMAGE ID       CREATED       SIZE      SHARED SIZE   UNIQUE SIZE"
        "   CONTAINERS\n"
        "web          v1        aaaaaaaaaaaa   2 hours ago   2MB       500kB         1.5MB      "
        "   2\n"
        "<none>       <none>    bbbbbbbbbbbb   2 hours ago   1.5MB     500kB         1MB        "
        "   0\n"
        "<none>       <none>    cccccccccccc   2 hours ago   10B       N/A           N/A        "
        "   1\n"
        "\n"
        "Containers space usage:\n"
        "\n"
        "CONTAINER ID   IMAGE     COMMAND      LOCAL VOLUMES   SIZE      CREATED       STATUS   "
        "               NAMES\n"
        'dddddddddddd   web:v1    "httpd -f"   1               1kB       2 hours ago   Up 2 hours'
        "              one\n"
        'eeeeeeeeeeee   web:v1    "true"       0               3kB       2 hours ago   Exited (0)'
        " 1 hour ago   two\n"
        "\n"
        "Local Volumes space usage:\n"
        "\n"
        "VOLUME NAME   LINKS     SIZE\n"
        "data          1         4kB\n"
        "left          0         1kB\n"
        "nfs           0         -1B\n"
        "\n"
        "Build cache usage: 1kB\n"
        "\n"
        "CACHE ID        CACHE TYPE     SIZE      CREATED       LAST USED           USAGE     "
        "SHARED\n"
        "gggggggggggg*   source.local   300B      2 hours ago                       1         "
        "false\n"
        "ffffffffffff    regular        700B      2 hours ago   About an hour ago   3         "
        "false\n"
    )
    out = pyengine("system", "df", "-v", "--format", "json").out
    assert not out.endswith("\n")
    details = json.loads(out)
    assert list(details) == ["Images", "Containers", "Volumes", "BuildCache"]
    assert details["Containers"][0]["Size"] == "1kB"
    assert details["BuildCache"][1]["Parent"] == "p"
    format = "{{range .Volumes}}{{.Name}} {{end}}"
    assert pyengine("system", "df", "-v", "--format", format).out == "data left nfs "
    assert pyengine("system", "df", "-v", "--format", "{{.Nope}}").code == 1


FOUND = [
    {
        "name": "nginx", "description": "Official\nbuild of <nginx>, a web server and more besides",
        "star_count": 20000, "is_official": True, "is_automated": False,
    },
    {"name": "my/nginx", "description": "", "star_count": 0, "is_official": False},
]  # fmt: skip


def test_search(engine: Any, pyengine: Run, tmp_path: Path) -> None:
    engine.on("GET /images/search", FOUND)
    assert pyengine("search", "nginx").out == (
        "NAME       DESCRIPTION                                     STARS     OFFICIAL\n"
        "nginx      Official build of <nginx>, a web server and …   20000     [OK]\n"
        "my/nginx                                                   0         \n"
    )
    rows = pyengine("search", "--no-trunc", "--format", "json", "nginx").out.splitlines()
    assert json.loads(rows[0])["Description"].endswith("and more besides")
    assert [json.loads(row)["IsOfficial"] for row in rows] == ["true", "false"]
    (tmp_path / "config").mkdir()
    auths = {"auths": {"r:5000": {"auth": base64.b64encode(b"u:p").decode()}}}
    (tmp_path / "config" / "config.json").write_text(json.dumps(auths))
    pyengine("search", "--limit", "5", "-f", "stars=3", "r:5000/nginx")
    request = engine.requests("GET /images/search")[-1]
    assert request.query == (
        "term=r%3A5000%2Fnginx&limit=5&filters=%7B%22stars%22%3A%7B%223%22%3Atrue%7D%7D"
    )
    auth = json.loads(base64.urlsafe_b64decode(request.headers["x-registry-auth"]))
    assert auth["username"] == "u"
