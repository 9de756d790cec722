"""The shape of the repository: who imports whom, what every plugin and contract has, docs."""

from __future__ import annotations

import ast
import configparser
import importlib
import inspect
import pkgutil
import re
import tomllib
from pathlib import Path
from types import ModuleType

import pytest

import pyengine.contracts
from pyengine import errors
from pyengine.contracts.base import Kind
from pyengine.drivers import PACKAGE_PREFIX

ROOT = Path(__file__).resolve().parents[1]
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
CORE = ROOT / "core/src/pyengine"
GROUPS = {f"pyengine.{kind.value}" for kind in Kind} | {"pyengine.api", "pyengine.hooks",
                                                        "pyengine.cli"}  # fmt: skip


def imports(path: Path) -> set[str]:
    """Top-level packages that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name.partition(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.partition(".")[0])
    return found


# -- who imports whom ------------------------------------------------------------------------------


def test_the_import_contracts_name_every_plugin() -> None:
    """make lint runs lint-imports with this file."""
    linter = configparser.ConfigParser()
    linter.read(ROOT / ".importlinter")
    packages = {f"pyengine_{path.name}" for path in PLUGINS}
    lists = {
        "importlinter": ("root_packages", {"pyengine"}),
        "importlinter:contract:core-knows-no-plugin": ("forbidden_modules", set()),
        "importlinter:contract:plugins-are-independent": ("modules", set()),
    }
    for section, (key, more) in lists.items():
        assert set(linter[section][key].split()) == packages | more, section
    assert "lint-imports" in (ROOT / "Makefile").read_text()


@pytest.mark.parametrize("tree", ["core/src", "core/tests"])
def test_core_and_its_tests_know_no_plugin(tree: str) -> None:
    bad = {
        str(path.relative_to(ROOT)): found
        for path in (ROOT / tree).rglob("*.py")
        if (found := {name for name in imports(path) if name.startswith("pyengine_")})
    }
    assert bad == {}


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_a_plugin_imports_core_and_itself(plugin: Path) -> None:
    own = f"pyengine_{plugin.name}"
    foreign = {
        name
        for path in plugin.rglob("*.py")
        for name in imports(path)
        if name.startswith("pyengine_") and name != own
    }
    assert foreign == set()


# -- what every plugin has -------------------------------------------------------------------------


@pytest.mark.parametrize("plugin", PLUGINS, ids=lambda path: path.name)
def test_a_plugin_is_a_whole_distribution(plugin: Path) -> None:
    project = tomllib.loads((plugin / "pyproject.toml").read_text())["project"]
    assert project["name"] == f"pyengine-{plugin.name.replace('_', '-')}"
    assert any(d.startswith("pyengine-core") for d in project["dependencies"])
    others = {f"pyengine-{path.name.replace('_', '-')}" for path in PLUGINS}
    assert not others & {re.split(r"[ <>=!~\[]", d)[0] for d in project["dependencies"]}
    points = project["entry-points"]
    assert points
    assert set(points) <= GROUPS
    for group, targets in points.items():
        for name, target in targets.items():
            module, _, attribute = target.partition(":")
            found = getattr(importlib.import_module(module), attribute)
            assert inspect.getdoc(found), target
            kind = group.removeprefix("pyengine.")
            if kind in {k.value for k in Kind}:
                assert (found.kind.value, found.name) == (kind, name)
                # So that "pip install pyengine-<kind>-<name>" in an error is the right advice.
                prefix = PACKAGE_PREFIX.get(Kind(kind), kind)
                assert plugin.name == f"{prefix}_{name.replace('-', '_')}"
    assert len((plugin / "README.md").read_text().split()) > 20
    assert list((plugin / "src" / f"pyengine_{plugin.name}").glob("__init__.py"))
    assert list(plugin.glob("tests/test_*.py"))


def test_names_of_test_files_are_unique() -> None:
    names = [
        path.name
        for tree in ("core/tests", "plugins", "tests")
        for path in (ROOT / tree).rglob("test_*.py")
    ]
    assert sorted(names) == sorted(set(names))


def test_the_meta_package_and_the_workspace_hold_core() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    assert project["tool"]["uv"]["workspace"]["members"] == ["core", "plugins/*"]
    core = tomllib.loads((ROOT / "core/pyproject.toml").read_text())["project"]
    assert not any(d.startswith("pyengine") for d in core["dependencies"])


# -- contracts and errors --------------------------------------------------------------------------


def modules(package: ModuleType) -> list[ModuleType]:
    return [
        importlib.import_module(f"{package.__name__}.{item.name}")
        for item in pkgutil.iter_modules(package.__path__)
    ]


CONTRACTS = [
    found
    for module in modules(pyengine.contracts)
    for _, found in inspect.getmembers(module, inspect.isclass)
    if found.__module__ == module.__name__
]


@pytest.mark.parametrize("contract", CONTRACTS, ids=lambda found: found.__qualname__)
def test_a_contract_is_documented_to_its_last_method(contract: type) -> None:
    assert (contract.__doc__ or "").strip()
    undocumented = [
        name
        for name, member in vars(contract).items()
        if not name.startswith("_")
        and (inspect.isfunction(member) or isinstance(member, classmethod | property))
        and not (getattr(member, "__doc__", None) or "").strip()
    ]
    assert undocumented == []


ERRORS = [found for _, found in inspect.getmembers(errors, inspect.isclass)
          if issubclass(found, errors.EngineError)]  # fmt: skip


@pytest.mark.parametrize("error", ERRORS, ids=lambda found: found.__name__)
def test_an_error_has_one_status_and_exit_code_and_the_tree_in_the_docs_says_so(
    error: type[errors.EngineError],
) -> None:
    made = error("brief", "detail", "help")
    assert made.message() == str(made) == "brief: detail (help)"
    assert isinstance(made.status, int)
    assert 300 <= made.status < 600
    line = next(
        line for line in (errors.__doc__ or "").splitlines()
        if re.search(rf"\b{error.__name__}\b", line)
    )  # fmt: skip
    if error is errors.StartError:
        assert "400" in line
        assert "127 or 126" in line
        assert made.exit_code == 127
        return
    found = re.search(r"(\d{3})\s+exit (\d+)", line)
    assert found, line
    assert (made.status, made.exit_code) == (int(found[1]), int(found[2]))


def test_a_message_without_its_optional_parts() -> None:
    assert errors.NotFound("No such container: x").message() == "No such container: x"
    assert errors.NotFound("brief", help="try").message() == "brief (try)"


# -- docs ------------------------------------------------------------------------------------------

ARCHITECTURE = (ROOT / "docs/architecture.md").read_text()
PATH = re.compile(r"`((?:plugins/)?[\w/.-]+\.py)(?:: ([\w.]+))?`")


def resolve(path: str) -> Path:
    return ROOT / path if path.startswith("plugins/") else CORE / path


def names_in(path: Path) -> set[str]:
    """Functions and classes of a file, methods as ``Class.method``."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.ClassDef):
            found.add(node.name)
            found |= {
                f"{node.name}.{inner.name}"
                for inner in node.body
                if isinstance(inner, ast.FunctionDef | ast.AsyncFunctionDef)
            }
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            found.add(node.name)
    return found


def test_files_that_the_architecture_names_exist_and_have_what_it_names() -> None:
    named = PATH.findall(ARCHITECTURE)
    assert len(named) > 20
    missing = [
        f"{path}: {name}"
        for path, name in named
        if not resolve(path).exists() or (name and name not in names_in(resolve(path)))
    ]
    assert missing == []


def test_methods_that_the_architecture_names_exist() -> None:
    """``Class.method`` alone, or after a folder of a plugin."""
    everything: set[str] = set()
    for tree in (CORE, *(plugin / "src" for plugin in PLUGINS)):
        for path in tree.rglob("*.py"):
            everything |= names_in(path)
    words = re.findall(r"`(?:plugins/\w+: )?([A-Z]\w+\.[a-z_]\w*)`", ARCHITECTURE)
    assert len(words) > 10
    assert [word for word in words if word not in everything] == []


def test_folders_that_the_architecture_names_exist() -> None:
    for path in re.findall(r"`(plugins/\w+)[:`]", ARCHITECTURE):
        assert (ROOT / path).is_dir(), path
    for folder in re.findall(r"`(\w+/)`", ARCHITECTURE):
        assert (CORE / folder).is_dir() or (ROOT / folder).is_dir(), folder


def test_the_tree_of_core_is_mirrored_by_its_tests() -> None:
    packages = {path.parent.name for path in CORE.glob("*/__init__.py")} - {
        "contracts",  # by the kits in testing, which have tests of their own
        "bases",  # by the drivers that are built on them
    }
    tested = {path.name for path in (ROOT / "core/tests").iterdir() if path.is_dir()}
    assert packages - tested == set()
