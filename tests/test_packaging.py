"""environment.yml, pyproject.toml and requirements.lock say the same."""

import ast
import re
import sys
import tomllib
from importlib.metadata import entry_points, packages_distributions

import yaml
from helpers import ROOT
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

HEART = {"jupyterlab", "papermill", "torch", "pandas", "matplotlib", "nbval", "pytest"}
CONDA_NAMES = {"pytorch": "torch", "python-duckdb": "duckdb"}
ONLY_CONDA = {"python", "pip", "make", "quarto"}


def declared() -> dict[str, Requirement]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = project["dependencies"] + [line for extra in project["optional-dependencies"].values() for line in extra]
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


def locked() -> dict[str, str]:
    lines = (ROOT / "requirements.lock").read_text().splitlines()
    pairs = (line.split("==") for line in lines if line and not line.startswith("#"))
    return {canonicalize_name(name): version for name, version in pairs}


def conda() -> dict[str, str]:
    lines = yaml.safe_load((ROOT / "environment.yml").read_text())["dependencies"]
    parts = (re.fullmatch(r"([A-Za-z0-9_-]+)(.*)", line) for line in lines if isinstance(line, str))
    return {canonicalize_name(CONDA_NAMES.get(part[1], part[1])): part[2] for part in parts if part}


def test_what_the_kit_is_built_on_is_declared():
    assert declared().keys() >= HEART
    assert "quarto" in conda()


def test_every_package_that_the_kit_imports_is_declared():
    owners = packages_distributions()
    trees = [ast.parse(path.read_text()) for path in (ROOT / "lepton_kit").rglob("*.py")]
    nodes = [node for tree in trees for node in ast.walk(tree)]
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module}
    tops = {name.partition(".")[0] for name in names} - sys.stdlib_module_names - {"lepton_kit"}
    assert {canonicalize_name(owners[top][0]) for top in tops} <= declared().keys()


def test_the_lock_pins_every_declared_package_to_a_version_that_is_allowed():
    pinned = locked()
    for name, requirement in declared().items():
        assert name in pinned, f"{name} is not in requirements.lock: run `make lock`"
        assert requirement.specifier.contains(pinned[name], prereleases=True), f"{name}=={pinned[name]}"


def test_the_lock_pins_the_torch_version_whose_wheel_needs_no_cuda():
    assert locked()["torch"] == "2.13.0"
    assert not [name for name in locked() if name.startswith(("nvidia", "cuda"))]


def test_conda_asks_for_the_same_packages_and_versions():
    ours = {name: requirement.specifier for name, requirement in declared().items()}
    theirs = {name: SpecifierSet(spec) for name, spec in conda().items() if name not in ONLY_CONDA}
    assert theirs == ours


def test_python_is_the_same_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == conda()["python"] == ">=3.11"


def test_papermill_finds_the_engine():
    assert [e.value for e in entry_points(group="papermill.engine", name="lepton")] == [
        "lepton_kit.runs.engine:LeptonEngine"
    ]
