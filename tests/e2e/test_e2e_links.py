"""`--link` on the default bridge: hosts entries, variables, and taking a link away again."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.e2e.conftest import Docker

pytestmark = pytest.mark.usefixtures("tidied")


@pytest.fixture
def network(docker: Docker) -> Iterator[str]:
    name = f"net-{docker.name()}"
    docker("network", "create", name)
    yield name
    docker.clean()
    docker("network", "rm", name)


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
    assert "db" not in docker.out("start", "-a", "linker3").split()  # an id may hold any letters
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


def test_a_link_follows_the_other(docker: Docker) -> None:
    """Its name and its address change, and at last it goes."""
    other, linker = docker.up("busybox", "sleep", "1000"), docker.name()
    docker.up("--link", f"{other}:db", "busybox", "sleep", "1000", name=linker)
    docker("exec", linker, "sh", "-c", "echo 10.9.9.9 mine >>/etc/hosts")
    docker("stop", "-t", "0", other)
    docker("rename", other, f"{other}x")
    docker("network", "disconnect", "bridge", f"{other}x")
    docker("network", "connect", "bridge", f"{other}x")
    docker.up("busybox", "sleep", "1000")
    docker("start", f"{other}x")
    now = docker.out("inspect", "-f", "{{.NetworkSettings.IPAddress}}", f"{other}x")
    hosts = [line.split() for line in docker.exec(linker, "cat", "/etc/hosts").splitlines()]
    assert [line[0] for line in hosts if "db" in line] == [now]
    assert ["10.9.9.9", "mine"] in hosts
    links = docker.out("inspect", "-f", "{{json .HostConfig.Links}}", linker)
    assert links == f'["/{other}x:/{linker}/db"]'
    names = docker.out("ps", "--no-trunc", "--format", "{{.Names}}", "-f", f"name={other}x")
    assert names == f"{other}x,{linker}/db"
    docker("rm", "-f", f"{other}x")
    assert docker.out("inspect", "-f", "{{json .HostConfig.Links}}", linker) == "null"
    docker("restart", "-t", "0", linker)


def test_networks_that_users_made_have_names_instead(docker: Docker, network: str) -> None:
    later, linker = docker.name(), docker.name()
    docker.up("--network", network, "--link", f"{later}:db", "busybox", "sleep", "1000",
              name=linker)  # fmt: skip
    docker.up("--network", network, "busybox", "sleep", "1000", name=later)
    assert "db" not in docker.exec(linker, "cat", "/etc/hosts").split()
    address = docker.out(
        "inspect", "-f", "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}", later
    )
    assert address in docker.exec(linker, "nslookup", "db")


def test_who_has_the_hosts_network_cannot_be_linked_to(docker: Docker) -> None:
    hosted = docker.up("--network", "host", "busybox", "sleep", "1000")
    says = "conflicting options: host type networking can't be used with links"
    docker.fails("create", "--link", f"{hosted}:x", "busybox", code=1, says=says)
