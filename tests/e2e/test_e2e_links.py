"""`--link` on the default bridge: hosts entries, variables, and taking a link away again."""

from __future__ import annotations

import pytest

from tests.e2e.conftest import Docker

pytestmark = pytest.mark.usefixtures("tidied")


def test_a_link_tells_of_the_other(docker: Docker) -> None:
    docker("run", "-d", "--name", "linked", "-e", "FOO=1", "--expose", "80", "busybox",
           "sleep", "1000")  # fmt: skip
    address = docker.out("inspect", "-f", "{{.NetworkSettings.IPAddress}}", "linked")
    shown = docker.out("run", "--rm", "--name", "linker", "--link", "linked:db", "busybox",
                       "sh", "-c", "env; cat /etc/hosts")  # fmt: skip
    assert f"DB_PORT=tcp://{address}:80" in shown
    assert "DB_NAME=/linker/db" in shown
    assert "DB_ENV_FOO=1" in shown
    assert any(line.split()[:2] == [address, "db"] for line in shown.splitlines() if line.strip())


def test_execs_know_the_links_too(docker: Docker) -> None:
    docker("run", "-d", "--name", "linked1", "busybox", "sleep", "1000")
    docker("run", "-d", "--name", "linker1", "--link", "linked1:db", "busybox", "sleep", "1000")
    assert "DB_NAME=/linker1/db" in docker.out("exec", "linker1", "env")


def test_only_one_that_runs_can_be_linked_to(docker: Docker) -> None:
    docker("create", "--name", "linked2", "busybox", "true")
    done = docker(
        "run", "--name", "linker2", "--link", "linked2:db", "busybox", "true", check=False
    )
    words = "Cannot link to a non running container: /linked2 AS /linker2/db"
    assert words in done.stderr


def test_a_link_is_taken_away(docker: Docker) -> None:
    docker("run", "-d", "--name", "linked3", "busybox", "sleep", "1000")
    docker("create", "--name", "linker3", "--link", "linked3:db", "busybox", "cat", "/etc/hosts")
    docker("rm", "--link", "linker3/db")
    docker("inspect", "linked3", "linker3")
    assert "db" not in docker.out("start", "-a", "linker3")
    done = docker("rm", "--link", "linker3/db", check=False)
    assert "No such link: /linker3/db" in done.stderr


def test_a_link_is_a_name_that_follows_its_containers(docker: Docker) -> None:
    docker("run", "-d", "--name", "linked4", "busybox", "sleep", "1000")
    docker("run", "-d", "--name", "linker4", "--link", "linked4:db", "busybox", "sleep", "1000")
    docker("rename", "linked4", "linked5")
    docker("rename", "linker4", "linker5")
    assert docker.state("linker5", "{{.HostConfig.Links}}") == "[/linked5:/linker5/db]"
    assert docker.state("linker5/db", "{{.Name}}") == "/linked5"
    shown = docker.out("ps", "--no-trunc", "--format", "{{.Names}}", "-f", "name=linked5")
    assert shown == "linked5,linker5/db"
    docker("restart", "-t", "0", "linker5")
    assert " db " in docker.exec("linker5", "cat", "/etc/hosts").replace("\t", " ")


def test_there_is_one_host_network(docker: Docker) -> None:
    done = docker("network", "create", "-d", "host", "another", check=False)
    assert 'only one instance of "host" network is allowed' in done.stderr
