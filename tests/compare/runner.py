"""Drives one engine through a case and keeps what it answered."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import io
import json
import os
import platform
import pty
import re
import select
import shlex
import shutil
import struct
import subprocess
import tarfile
import tempfile
import termios
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.compare import normalise
from tests.compare.steps import Case, Step
from tests.harness import _UnixConnection as UnixConnection
from tests.harness import busybox_tar

API = "1.45"
IMAGE = "compare:latest"
PREFIX = "cmp-"
PATIENCE = 30.0

Answers = dict[str, Any]


class Stuck(Exception):
    """A step of a case did not come to its end; no answer can be compared."""


@dataclass
class Target:
    """An engine: its socket, and how a program gets into its network namespace.

    ``words``: what stands for a word in braces in the lines of steps.
    """

    docker: str
    socket: str
    enter: Sequence[str] = ()
    places: list[tuple[str, str]] = field(default_factory=list)
    words: dict[str, str] = field(default_factory=dict)

    def offer(self, words: dict[str, str]) -> None:
        """There is a registry, as `offered.registry` told."""
        self.words = words
        self.places.append((words["registry"], "<registry>"))

    def spell(self, line: str) -> str:
        """``line`` with words, and ids of images, in the place of what stands for them."""
        for word, meaning in self.words.items():
            line = line.replace(f"{{{word}}}", meaning)
        return re.sub(r"\{id:([^}]+)\}", lambda match: self._id(match[1]), line)

    def _id(self, image: str) -> str:
        done = self.command("image", "inspect", "-f", "{{.Id}}", image, check=True)
        return done.stdout.strip().removeprefix("sha256:")[:12]

    def prepare(self) -> None:
        """Import the image that all cases use, and learn where the engine keeps its files."""
        self.command("rmi", "-f", IMAGE)
        with tempfile.TemporaryDirectory() as directory:
            tar = busybox_tar(Path(directory) / "busybox.tar")
            changes = ["--change", 'CMD ["sh"]', "--change", "ENV COLOUR=green"]
            self.command("import", "-m", "for comparing", *changes, str(tar), IMAGE, check=True)
        root = json.loads(self.command("info", "--format", "{{json .}}").stdout)["DockerRootDir"]
        self.places.append((root, "<data-root>"))

    def command(
        self, *arguments: str, stdin: str = "", check: bool = False
    ) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [self.docker, *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=PATIENCE,
            env=self.environment,
            check=False,
        )
        if check and done.returncode:
            raise Stuck(f"docker {shlex.join(arguments)}: {done.stdout}{done.stderr}")
        return done

    @property
    def environment(self) -> dict[str, str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("DOCKER_")}
        host = f"unix://{self.socket}"
        return {**kept, "DOCKER_HOST": host, "DOCKER_API_VERSION": API, "TERM": "xterm"}

    def request(self, method: str, path: str, body: Any = None) -> tuple[int, bytes]:
        connection = UnixConnection(self.socket, PATIENCE)
        try:
            data = body if isinstance(body, str) or body is None else json.dumps(body)
            headers = {"Host": "docker"}
            if data is not None:
                headers["Content-Type"] = "application/json"
            connection.request(method, f"/v{API}{path}", data, headers)
            response = connection.getresponse()
            return response.status, response.read()
        finally:
            connection.close()

    def clear(self) -> None:
        """Remove what cases made, whether they ended well or not."""
        for container in self._listed("/containers/json?all=1"):
            if any(name.startswith(f"/{PREFIX}") for name in container["Names"]):
                self.request("DELETE", f"/containers/{container['Id']}?force=1&v=1")
        for network in self._listed("/networks"):
            if network["Name"].startswith(PREFIX):
                self.request("DELETE", f"/networks/{network['Id']}")
        for volume in self._listed("/volumes")["Volumes"] or []:
            if volume["Name"].startswith(PREFIX):
                self.request("DELETE", f"/volumes/{volume['Name']}")
        for image in self._listed("/images/json"):
            if not image["RepoTags"]:
                self.request("DELETE", f"/images/{image['Id']}?force=1")
            for tag in image["RepoTags"] or []:
                if tag.startswith((PREFIX, f"{self.words.get('registry', PREFIX)}/")):
                    self.request("DELETE", f"/images/{tag}")

    def _listed(self, path: str) -> Any:
        return json.loads(self.request("GET", path)[1])


def image_archive(path: Path) -> Path:
    """An image `cmp-loaded:1` of two layers, in the form that `docker save` writes."""
    layers = []
    with tempfile.TemporaryDirectory() as directory:
        base = busybox_tar(Path(directory) / "base.tar").read_bytes()
    top = io.BytesIO()
    with tarfile.open(fileobj=top, mode="w") as tar:
        _put(tar, "etc/greeting", b"hello\n")
        _put(tar, "etc/.wh.group", b"")
    layers = [base, top.getvalue()]
    when = "2024-05-06T07:08:09Z"
    config = {
        "architecture": "amd64",
        "os": "linux",
        "created": when,
        "author": "somebody",
        "config": {"Entrypoint": ["sh", "-c", "cat /etc/greeting; ls /etc"], "Env": ["A=b"]},
        "rootfs": {
            "type": "layers",
            "diff_ids": ["sha256:" + hashlib.sha256(layer).hexdigest() for layer in layers],
        },
        "history": [
            {"created": when, "created_by": "ADD file in /"},
            {"created": when, "created_by": "ENV A=b", "empty_layer": True},
            {"created": when, "created_by": "RUN greet", "comment": "second"},
        ],
    }
    raw = json.dumps(config).encode()
    name = hashlib.sha256(raw).hexdigest() + ".json"
    files = [f"{number}/layer.tar" for number in range(len(layers))]
    manifest = [{"Config": name, "RepoTags": ["cmp-loaded:1"], "Layers": files}]
    with tarfile.open(path, "w") as tar:
        _put(tar, name, raw)
        for file, layer in zip(files, layers, strict=True):
            _put(tar, file, layer)
        _put(tar, "manifest.json", json.dumps(manifest).encode())
    return path


def _put(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size = len(content)
    tar.addfile(entry, io.BytesIO(content))


def cli_version(docker: str) -> str:
    """The major version of the docker CLI: its messages change with it."""
    done = subprocess.run([docker, "--version"], capture_output=True, text=True, check=True)
    return done.stdout.removeprefix("Docker version ").partition(".")[0]


def host_facts() -> dict[str, Any]:
    """What of the host shows in answers, so that recordings from another one can be read."""
    memory = re.search(r"MemTotal:\s+(\d+)", Path("/proc/meminfo").read_text())
    assert memory
    return {
        "cgroup": 2 if Path("/sys/fs/cgroup/cgroup.controllers").exists() else 1,
        "apparmor": Path("/sys/kernel/security/apparmor").exists(),
        "machine": [platform.node(), platform.release(), os.cpu_count(), int(memory[1])],
        "init": any(map(shutil.which, ("docker-init", "tini", "tini-static"))),
    }


def run(case: Case, target: Target) -> Answers:
    """Drive ``target`` through the case; {label: normalised answer}."""
    answers: Answers = {}
    jobs: dict[str, subprocess.Popen[str]] = {}
    lines: dict[str, str] = {}
    with tempfile.TemporaryDirectory() as directory:
        start = f"{time.time():.9f}"
        places = [*target.places, (directory, "<dir>")]
        try:
            for step in case.steps:
                line = step.line.replace("{t0}", start).replace("{dir}", directory)
                line = target.spell(line.replace("{soon}", f"{time.time() + 2:.9f}"))
                if "{image}" in line:
                    line = line.replace("{image}", str(image_archive(Path(directory) / "i.tar")))
                answer = _step(step, line, target, jobs)
                if answer is None:
                    lines[step.name] = step.line
                    continue
                label = lines[step.name] + " &" if step.kind == "finish" else step.line
                number = 2
                while label in answers:
                    label = f"{label.partition(' #')[0]} #{number}"
                    number += 1
                answer = _normalised(answer, step, places)
                if step.lines:
                    answer["stdout"] = "\n".join(sorted(answer["stdout"].splitlines()))
                answers[label] = answer
        finally:
            for job in jobs.values():
                job.kill()
                job.wait()
            target.clear()
    return answers


def _normalised(answer: Answers, step: Step, places: list[tuple[str, str]]) -> Answers:
    done: Answers = {}
    for key, value in answer.items():
        if key == "json":
            done[key] = normalise.tree(value, places)
        elif isinstance(value, str):
            done[key] = normalise.text(value, places, step.rules)
        else:
            done[key] = value
    return done


def _step(
    step: Step, line: str, target: Target, jobs: dict[str, subprocess.Popen[str]]
) -> Answers | None:
    if step.kind == "api":
        return _api(step, line, target)
    if step.kind == "finish":
        job = jobs.pop(step.name)
        try:
            out, err = job.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            job.kill()
            raise Stuck(f"{job.args!r} does not end") from None
        return {"exit": job.returncode, "stdout": out, "stderr": err}
    if step.kind == "pause":
        time.sleep(float(line))
        return None
    arguments = shlex.split(line)
    if step.kind == "terminal":
        return _terminal(step, arguments, target)
    if step.kind == "background":
        jobs[step.name] = subprocess.Popen(
            [target.docker, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=target.environment,
        )
        return None
    if step.kind == "settle":
        deadline = time.monotonic() + PATIENCE
        while True:
            done = target.command(*_now(arguments))
            if re.search(step.until, done.stdout + done.stderr):
                return None
            if time.monotonic() > deadline:
                raise Stuck(f"docker {line}: no {step.until!r} in {done.stdout}{done.stderr}")
            time.sleep(0.05)
    if step.kind == "quiet":
        target.command(*arguments, stdin=step.stdin, check=True)
        return None
    if step.kind == "host":
        done = subprocess.run(
            [*target.enter, *arguments],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
    else:
        done = target.command(*_now(arguments), stdin=step.stdin)
    answer: Answers = {"exit": done.returncode, "stdout": done.stdout, "stderr": done.stderr}
    if step.json:
        with contextlib.suppress(ValueError):
            answer["json"] = _decoded(done.stdout)
            del answer["stdout"]
    return answer


def _now(arguments: list[str]) -> list[str]:
    return [argument.replace("{now}", f"{time.time():.9f}") for argument in arguments]


def _api(step: Step, line: str, target: Target) -> Answers:
    method, _, path = line.partition(" ")
    status, raw = target.request(method, path, step.body)
    answer: Answers = {"status": status}
    try:
        answer["json"] = _decoded(raw.decode())
    except ValueError:
        answer["body"] = raw.decode(errors="replace")
    return answer


def _decoded(printed: str) -> Any:
    """One JSON value, or a list of those that stand one a line."""
    try:
        return json.loads(printed)
    except ValueError:
        lines = printed.splitlines()
        if not lines:
            raise
        return [json.loads(line) for line in lines]


def _terminal(step: Step, arguments: list[str], target: Target) -> Answers:
    """Run on a pty of 80 by 24; the transcript is all that the terminal would have shown."""
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    job = subprocess.Popen(
        ["setsid", "--ctty", "--wait", target.docker, *arguments],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env=target.environment,
    )
    os.close(follower)
    shown = b""
    seen = 0
    script = list(step.script)
    deadline = time.monotonic() + PATIENCE
    try:
        while time.monotonic() < deadline:
            if script and (at := shown.find(script[0][0].encode(), seen)) >= 0:
                seen = at + len(script[0][0])
                os.write(leader, script.pop(0)[1].encode())
            if select.select([leader], [], [], 0.2)[0]:
                try:
                    chunk = os.read(leader, 65536)
                except OSError:
                    break
                if not chunk:
                    break
                shown += chunk
        else:
            raise Stuck(f"docker {step.line}: still waits at {shown!r}")
        code = job.wait(PATIENCE)
    finally:
        job.kill()
        job.wait()
        os.close(leader)
    return {"exit": code, "stdout": shown.decode(errors="replace"), "left": len(script)}
