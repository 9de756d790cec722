"""Drivers that are missing, duplicate, broken, hanging or outdated, as fake distributions."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pyengine import drivers
from pyengine.contracts.base import Kind
from pyengine.contracts.volume import VolumeDriver
from pyengine.drivers import Catalog, Choice, Drivers, Places, survey
from pyengine.errors import (
    DriverBroken,
    DriverDuplicate,
    DriverMissing,
    DriverUnavailable,
    EngineError,
    InvalidParameter,
)
from pyengine.testing.distributions import distribution

GOOD = """
from pyengine.contracts.base import Probe
from pyengine.contracts.volume import VolumeDriver
from pyengine.errors import InvalidParameter

class Good(VolumeDriver):
    name = "good"
    priority = 70
    @classmethod
    def probe(cls, context): return Probe(True)
    def create(self, volume): ...
    def remove(self, name): ...
    def path(self, name): ...
    def mount(self, volume, user): ...
    def unmount(self, volume, user): ...
    def usage(self, name): return 0
    def reconcile(self, known, users): ...
"""
UNAVAILABLE = (
    GOOD
    + """
class Missing(Good):
    @classmethod
    def probe(cls, context): return Probe(False, "the kernel has no frobs", "modprobe frob")
class Raises(Good):
    @classmethod
    def probe(cls, context): raise RuntimeError("no idea")
class Dies(Good):
    @classmethod
    def probe(cls, context):
        import os, signal
        os.kill(os.getpid(), signal.SIGSEGV)
class Talks(Good):
    @classmethod
    def probe(cls, context):
        print("hello from a probe")
        return Probe(True)
class Picky(Good):
    priority = 95
    def __init__(self, context):
        super().__init__(context)
        if context.options: raise InvalidParameter("it takes no options")
class Late(Good):
    priority = 90
    @classmethod
    def probe(cls, context): return Probe(False, "not on this host")
"""
)

Add = Callable[..., Path]


@pytest.fixture
def add(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Add:
    """Install a fake distribution with volume drivers, for this process and its children."""
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))
    path = os.pathsep.join(filter(None, [str(site), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("PYTHONPATH", path)

    def install(
        package: str, targets: dict[str, str], kind: str = "volume", **modules: str
    ) -> Path:
        return distribution(site, package, {f"pyengine.{kind}": targets}, modules)

    return install


def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "data", tmp_path / "run", "id", "petest")


def message(error: pytest.ExceptionInfo[EngineError]) -> str:
    return error.value.message()


def test_discovery_imports_nothing(add: Add) -> None:
    add("fake-loud", {"loud": "fake_loud:X"}, fake_loud="raise SystemExit('imported')")
    assert "loud" in Catalog().names(Kind.VOLUME)
    assert "fake_loud" not in sys.modules


def test_a_good_driver_is_loaded(add: Add) -> None:
    add("fake-good", {"good": "fake_good:Good"}, fake_good=GOOD)
    driver = Catalog().load(Kind.VOLUME, "good")
    assert issubclass(driver, VolumeDriver)


def test_a_missing_driver_says_what_is_installed_and_what_to_install(add: Add) -> None:
    add("fake-good", {"good": "fake_good:Good", "other": "fake_good:Good"}, fake_good=GOOD)
    with pytest.raises(DriverMissing) as error:
        Catalog().load(Kind.VOLUME, "foo")
    text = message(error)
    assert text.startswith("no volume driver 'foo' is installed: installed: good,")
    assert "other" in text
    assert text.endswith(
        "(if a package provides it, install that: pip install pyengine-volume-foo)"
    )


@pytest.mark.parametrize(
    ("kind", "package"),
    [(Kind.NETWORK, "pyengine-net-x"), (Kind.LOGGING, "pyengine-log-x"),
     (Kind.STORAGE, "pyengine-storage-x")],
)  # fmt: skip
def test_the_package_to_install_follows_the_convention(kind: Kind, package: str) -> None:
    with pytest.raises(DriverMissing) as error:
        Catalog().find(kind, "x")
    assert f"pip install {package}" in error.value.help


def test_two_packages_with_one_name_are_found_before_anything_is_imported(add: Add) -> None:
    add("fake-one", {"twice": "fake_one:X"}, fake_one="raise SystemExit")
    add("fake-two", {"twice": "fake_two:X"}, fake_two="raise SystemExit")
    with pytest.raises(DriverDuplicate) as error:
        Catalog().load(Kind.VOLUME, "twice")
    text = message(error)
    assert "volume driver 'twice' is provided by more than one package" in text
    assert "fake-one 1.0" in text
    assert "fake-two 1.0" in text
    assert not {"fake_one", "fake_two"} & set(sys.modules)


def test_a_copy_later_on_the_path_is_no_duplicate(
    add: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add("fake-good", {"good": "fake_good:Good"}, fake_good=GOOD)
    later = distribution(
        tmp_path / "later", "Fake_Good", {"pyengine.volume": {"good": "fake_good:Old"}}, {}, "0.9"
    )
    monkeypatch.setattr(sys, "path", [*sys.path, str(later)])
    assert Catalog().find(Kind.VOLUME, "good").version == "1.0"


@pytest.mark.parametrize(
    ("source", "brief", "detail"),
    [
        ("raise RuntimeError('boom')", "cannot be imported", "RuntimeError: boom"),
        ("raise SystemExit(3)", "cannot be imported", "SystemExit: 3"),
        ("import nonesuch_module", "cannot be imported", "No module named 'nonesuch_module'"),
        ("def (", "cannot be imported", "SyntaxError"),
        ("Other = 1", "cannot be imported", "AttributeError"),
        ("X = 1", "is not a volume driver", "fake_bad:X is 1"),
        ("class X: pass", "is not a volume driver", "fake_bad:X is <class"),
        ("from pyengine.contracts.storage import StorageDriver as X", "is not a volume driver",
         "StorageDriver"),
        ("from pyengine.contracts.volume import VolumeDriver\nclass X(VolumeDriver): name = 'bad'",
         "does not implement its contract", "missing create, mount, path"),
    ],
)  # fmt: skip
def test_a_broken_driver(add: Add, source: str, brief: str, detail: str) -> None:
    add("fake-bad", {"bad": "fake_bad:X"}, fake_bad=source)
    sys.modules.pop("fake_bad", None)
    with pytest.raises(DriverBroken) as error:
        Catalog().load(Kind.VOLUME, "bad")
    assert error.value.brief == f"volume driver 'bad' {brief}"
    assert "package fake-bad 1.0" in error.value.detail
    assert detail in error.value.detail
    assert error.value.help


def test_a_driver_that_hangs_while_it_is_imported(add: Add) -> None:
    add("fake-slow", {"slow": "fake_slow:X"}, fake_slow="import time; time.sleep(30)")
    began = time.monotonic()
    with pytest.raises(DriverBroken, match="hangs while it is imported") as error:
        Catalog().load(Kind.VOLUME, "slow", deadline=0.2)
    assert time.monotonic() - began < 5
    assert "did not finish within 0.2 s" in error.value.detail


def test_a_driver_that_starts_a_thread_at_import(add: Add) -> None:
    source = (
        "import threading, time\n"
        "threading.Thread(target=time.sleep, args=(2,), name='busybody', daemon=True).start()\n"
        + GOOD
    )
    add("fake-thread", {"threads": "fake_thread:Good"}, fake_thread=source)
    with pytest.raises(DriverBroken, match="starts a thread while it is imported") as error:
        Catalog().load(Kind.VOLUME, "threads")
    assert "busybody" in error.value.detail


def test_probes_decide_when_the_driver_is_first_needed(add: Add, tmp_path: Path) -> None:
    add(
        "fake-probes",
        {"missing": "fake_probes:Missing", "raises": "fake_probes:Raises"},
        fake_probes=UNAVAILABLE,
    )
    found = Drivers(Catalog(), places(tmp_path), {})
    with pytest.raises(DriverUnavailable) as error:
        found.get(Kind.VOLUME, "missing")
    assert message(error) == (
        "volume driver 'missing' is not available here: the kernel has no frobs (modprobe frob)"
    )
    with pytest.raises(DriverBroken) as error:
        found.get(Kind.VOLUME, "raises")
    assert message(error).startswith("volume driver 'raises' fails when it is probed: RuntimeError")


def test_without_a_choice_the_best_that_works_is_taken(
    add: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drivers, "discover", lambda: _only("fake-"), raising=True)
    add(
        "fake-best",
        {"late": "fake_best:Late", "good": "fake_best:Good", "broken": "fake_best:Nothing"},
        fake_best=UNAVAILABLE,
    )
    found = Drivers(Catalog(), places(tmp_path), {})
    assert found.default(Kind.VOLUME) == "good"
    assert found.get(Kind.VOLUME) is found.get(Kind.VOLUME, "good")


def test_options_that_are_refused_are_no_reason_to_take_another(
    add: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drivers, "discover", lambda: _only("fake-"), raising=True)
    add(
        "fake-picky", {"picky": "fake_picky:Picky", "good": "fake_picky:Good"},
        fake_picky=UNAVAILABLE,
    )  # fmt: skip
    choices = {Kind.VOLUME: Choice("", {"colour": "red"})}
    with pytest.raises(InvalidParameter, match="it takes no options"):
        Drivers(Catalog(), places(tmp_path), choices).default(Kind.VOLUME)
    # Those of nobody by name are the default's alone.
    add("fake-easy", {"easy": "fake_easy:Easy"},
        fake_easy=GOOD + "class Easy(Good): priority = 99")  # fmt: skip
    found = Drivers(Catalog(), places(tmp_path), choices)
    assert found.get(Kind.VOLUME).context.options == {"colour": "red"}
    assert found.get(Kind.VOLUME, "picky").context.options == {}


def test_a_driver_says_whether_its_keys_count_at_once(add: Add, tmp_path: Path) -> None:
    add(
        "fake-keys", {"quick": "fake_keys:Quick", "slow": "fake_keys:Slow"},
        fake_keys=GOOD + """
class Quick(Good):
    keys = {"authorization-plugins": "asked"}
    told = []
    def reconfigure(self, options):
        self.told.append(dict(options))
        return True
class Slow(Good):
    keys = {"metrics-addr": "address"}
""",
    )  # fmt: skip
    found = Drivers(Catalog(), places(tmp_path), {}, {"metrics-addr": "a:1"})
    quick, slow = found.get(Kind.VOLUME, "quick"), found.get(Kind.VOLUME, "slow")
    assert slow.context.options == {"address": "a:1"}
    assert found.reconfigure({"metrics-addr": "a:1"}) == set()
    now = {"metrics-addr": "a:2", "authorization-plugins": "x"}
    assert found.reconfigure(now) == {"authorization-plugins"}
    assert found.reconfigure(now) == set(), "it has been told; what waits is not asked for again"
    assert found.reconfigure({}) == {"authorization-plugins"}
    assert quick.told == [{"asked": "x"}, {}]  # type: ignore[attr-defined]


def test_one_that_cannot_be_closed_keeps_no_other_open(
    add: Add, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add(
        "fake-ends", {"bad": "fake_ends:Bad", "fine": "fake_ends:Fine"},
        fake_ends=GOOD + """
class Bad(Good):
    name = "bad"
    def close(self): raise RuntimeError("stuck")
class Fine(Good):
    closed = False
    def close(self): self.closed = True
""",
    )  # fmt: skip
    found = Drivers(Catalog(), places(tmp_path), {})
    found.get(Kind.VOLUME, "bad")
    fine = found.get(Kind.VOLUME, "fine")
    found.close()
    assert fine.closed  # type: ignore[attr-defined]
    assert "volume driver bad while closing: stuck" in caplog.text


def test_when_nothing_works_every_reason_is_named(
    add: Add, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(drivers, "discover", lambda: _only("fake-"))
    add(
        "fake-none",
        {"late": "fake_none:Late", "missing": "fake_none:Missing", "broken": "fake_none:Nothing"},
        fake_none=UNAVAILABLE,
    )
    with pytest.raises(DriverUnavailable) as error:
        Drivers(Catalog(), places(tmp_path), {}).default(Kind.VOLUME)
    text = message(error)
    assert text.startswith("no volume driver is available: ")
    assert "late: not on this host" in text
    assert "missing: the kernel has no frobs" in text
    assert "broken: volume driver 'broken' cannot be imported" in text


_discover = drivers.discover


def _only(prefix: str) -> dict[str, list[object]]:
    """Discovery without what happens to be installed beside core."""
    return {
        group: [e for e in entries if e.dist is not None and e.dist.name.startswith(prefix)]
        for group, entries in _discover().items()
    }


def test_options_belong_to_the_driver_they_were_named_with(tmp_path: Path) -> None:
    found = Drivers(
        Catalog(),
        places(tmp_path),
        {Kind.LOGGING: Choice("json-file", {"max-size": "1m"}), Kind.IPAM: Choice("", {"a": "b"})},
    )
    assert found.options(Kind.LOGGING, "json-file") == {"max-size": "1m"}
    assert found.options(Kind.LOGGING, "local") == {}
    assert found.options(Kind.IPAM, "default") == {"a": "b"}


def test_the_survey_has_a_line_for_everything(add: Add, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drivers, "PROBE_DEADLINE", 3.0)
    names = ("Good", "Missing", "Raises", "Dies", "Talks", "Nothing")
    add("fake-all", {n.lower(): f"fake_all:{n}" for n in names}, fake_all=UNAVAILABLE)
    add("fake-hang", {"hangs": "fake_hang:X"}, fake_hang="import time; time.sleep(60)")
    add("fake-again", {"good": "fake_all:Good"})
    found = {
        (row.name, row.package): row for row in survey([Kind.VOLUME], {Kind.VOLUME: ["talks"]})
    }
    lines = {name: row for (name, package), row in found.items() if package.startswith("fake-")}
    assert lines["talks"].available
    assert lines["talks"].chosen
    assert not lines["missing"].chosen
    assert (lines["missing"].reason, lines["missing"].help) == (
        "the kernel has no frobs", "modprobe frob",
    )  # fmt: skip
    assert lines["raises"].reason == "its probe raised RuntimeError: no idea"
    assert lines["dies"].reason.startswith("its probe ended the process (signal 11)")
    assert lines["hangs"].reason == "hangs while it is imported or probed (over 3 s)"
    assert "cannot be imported" in lines["nothing"].reason
    for package in ("fake-all", "fake-again"):
        row = found["good", package]
        assert not row.available
        assert "provided by more than one package: fake-all 1.0, fake-again 1.0" in row.reason or (
            "provided by more than one package: fake-again 1.0, fake-all 1.0" in row.reason
        )


# -- what the operator sees ------------------------------------------------------------------------


def pyengine(*words: str, tmp_path: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pyengine", *words],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "HOME": str(tmp_path)},
    )


def daemon(tmp_path: Path, *words: str) -> list[str]:
    return ["daemon", "--config-file", str(tmp_path / "daemon.json"), "--data-root",
            str(tmp_path / "d"), "--exec-root", str(tmp_path / "r"), "-H",
            f"unix://{tmp_path}/s", *words]  # fmt: skip


def configured(tmp_path: Path, **values: object) -> None:
    (tmp_path / "daemon.json").write_text(json.dumps({k.replace("_", "-"): v
                                                      for k, v in values.items()}))  # fmt: skip


MISSING = ": no storage driver 'foo' is installed: installed: "
INSTALL = "(if a package provides it, install that: pip install pyengine-storage-foo)"


def test_a_chosen_driver_that_is_missing_ends_the_daemon_wherever_it_was_chosen(
    tmp_path: Path,
) -> None:
    configured(tmp_path)
    for words in (
        daemon(tmp_path, "--driver", "storage=foo"),
        ["--driver", "storage=foo", *daemon(tmp_path)],
        daemon(tmp_path, "--storage-driver", "foo"),
        daemon(tmp_path, "-s", "foo"),
    ):
        done = pyengine(*words, tmp_path=tmp_path)
        assert done.returncode == 1, done.stderr
        last = done.stderr.splitlines()[-1]
        key, found, _ = last.strip().partition(MISSING)
        assert found, done.stderr
        assert key in ("storage-driver", "drivers.storage")
        assert INSTALL in last
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    "values",
    [{"storage_driver": "foo"}, {"drivers": {"storage": "foo"}},
     {"drivers": {"storage": {"name": "foo", "options": {"a": "b"}}}},
     {"storage_driver": "foo", "drivers": {"storage": "foo"}}],
    ids=["docker", "ours", "long", "both"],
)  # fmt: skip
def test_daemon_json_chooses_with_dockers_key_and_ours(
    tmp_path: Path, values: dict[str, object]
) -> None:
    configured(tmp_path, **values)
    done = pyengine(*daemon(tmp_path), tmp_path=tmp_path)
    assert done.returncode == 1
    key, found, _ = done.stderr.splitlines()[-1].strip().partition(MISSING)
    assert found
    assert key == ("drivers.storage" if "drivers" in values else "storage-driver")


def test_a_chosen_driver_that_is_broken_ends_the_daemon(add: Add, tmp_path: Path) -> None:
    add("fake-bad", {"bad": "fake_bad:X"}, "storage", fake_bad="raise RuntimeError('boom')")
    configured(tmp_path)
    done = pyengine(*daemon(tmp_path, "--driver", "storage=bad"), tmp_path=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1] == (
        "  drivers.storage: storage driver 'bad' cannot be imported: package fake-bad 1.0: "
        "RuntimeError: boom (reinstall it: pip install --force-reinstall fake-bad) "
        "(nothing was started)"
    )


def test_a_broken_hook_plugin_is_one_line(add: Add, tmp_path: Path) -> None:
    add("fake-hooks", {"mine": "fake_hooks:X"}, "hooks", fake_hooks="raise RuntimeError('boom')")
    with pytest.raises(DriverBroken) as error:
        drivers.load_hooks(Catalog())
    assert message(error).startswith(
        "hook plugin 'mine' cannot be imported: package fake-hooks 1.0: RuntimeError: boom"
    )


def test_the_table_and_its_json(add: Add, tmp_path: Path) -> None:
    add("fake-probes", {"missing": "fake_probes:Missing", "fine": "fake_probes:Good"},
        fake_probes=UNAVAILABLE)  # fmt: skip
    text = pyengine("--driver", "volume=fine", "drivers", "volume", tmp_path=tmp_path)
    assert text.returncode == 0, text.stderr
    assert text.stdout.splitlines()[0].split() == ["KIND", "NAME", "PACKAGE", "VERSION",
                                                   "AVAILABLE"]  # fmt: skip
    rows = [line.split() for line in text.stdout.splitlines()]
    assert ["volume", "fine", "*", "fake-probes", "1.0", "yes"] in rows
    assert ["volume", "missing", "fake-probes", "1.0", "no"] in rows
    assert "volume missing: the kernel has no frobs\n  modprobe frob\n" in text.stdout
    done = pyengine("drivers", "volume", "--format", "json", tmp_path=tmp_path)
    found = {row["name"]: row for row in json.loads(done.stdout)}
    assert found["missing"] == {
        "kind": "volume", "name": "missing", "package": "fake-probes", "version": "1.0",
        "available": False, "chosen": False, "reason": "the kernel has no frobs",
        "help": "modprobe frob",
    }  # fmt: skip
    assert found["fine"]["available"]
