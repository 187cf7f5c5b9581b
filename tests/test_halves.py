"""The two halves of the package never import each other; they meet in notebooks, in `ops/` and in the CLI."""

import ast
import importlib.util
import re
import subprocess
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
from helpers import ROOT

import lepton_kit

DOMAIN = ("data", "models", "serving", "telemetry", "diagnosis", "plots", "stats")
MACHINERY = ("runs", "reports", "notebook")
NOT_FOR_DOMAIN = ("papermill", "nbclient", "nbformat", "jupyter_client", "IPython", "lepton_kit.cli", "lepton_kit.ops")
# What `import lepton_kit as lk` offers to notebooks is machinery too.
OFFERED = tuple(f"lepton_kit.{name}" for name in lepton_kit.__all__)


def modules(names: tuple[str, ...]) -> list[Path]:
    kit = ROOT / "lepton_kit"
    return [p for name in names for p in [*kit.glob(f"{name}.py"), *(kit / name).rglob("*.py")]]


def imports(path: Path) -> set[str]:
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def offending(path: Path, forbidden: tuple[str, ...]) -> list[str]:
    return [name for name in imports(path) if any(name == f or name.startswith(f"{f}.") for f in forbidden)]


@pytest.mark.parametrize("path", modules(DOMAIN), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_domain_never_imports_the_machinery(path):
    assert offending(path, (*(f"lepton_kit.{name}" for name in MACHINERY), *NOT_FOR_DOMAIN, *OFFERED)) == []


@pytest.mark.parametrize("path", modules(MACHINERY), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_machinery_never_imports_the_domain(path):
    assert offending(path, tuple(f"lepton_kit.{name}" for name in DOMAIN)) == []


@pytest.mark.parametrize("path", sorted((ROOT / "lepton_kit").rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_package_never_imports_a_subject(path):
    assert offending(path, ("subjects",)) == []


@pytest.mark.parametrize("path", modules(DOMAIN), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_domain_never_prints(path):
    calls = [node.func for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    assert not [call for call in calls if isinstance(call, ast.Name) and call.id == "print"]


def package_imports(root: Path) -> dict[str, set[str]]:
    """Return what each module of a package imports of it, also inside functions, by dotted names."""
    files = {
        ".".join(p.relative_to(root.parent).with_suffix("").parts).removesuffix(".__init__"): p
        for p in root.rglob("*.py")
    }
    named = {module: imports(path) for module, path in files.items()}
    return {
        module: {name if name in files else name.rpartition(".")[0] for name in names} & (files.keys() - {module})
        for module, names in named.items()
    }


def test_no_module_imports_itself_through_others_not_even_inside_a_function():
    TopologicalSorter(package_imports(ROOT / "lepton_kit")).prepare()  # raises CycleError, which names the circle


def test_a_cycle_that_a_function_hides_is_seen(tmp_path):
    kit = tmp_path / "kit"
    kit.mkdir()
    (kit / "a.py").write_text("from kit.b import g\n")
    (kit / "b.py").write_text("def g():\n    from kit import a\n")
    with pytest.raises(CycleError):
        TopologicalSorter(package_imports(kit)).prepare()


@pytest.mark.parametrize("name", ["data", "models", "telemetry", "diagnosis", "ops", "ops/watch", "runs", "reports"])
def test_a_package_begins_with_a_table_of_its_modules_that_are_there(name):
    folder = ROOT / "lepton_kit" / name
    words = ast.get_docstring(ast.parse((folder / "__init__.py").read_text())) or ""
    told = re.findall(r"`([a-z_]+)`", words)
    assert len(told) >= 5
    assert [one for one in told if not ((folder / f"{one}.py").is_file() or (folder / one).is_dir())] == []


def test_this_test_sees_an_import(tmp_path):
    module = tmp_path / "m.py"
    module.write_text("def f():\n    from lepton_kit.runs import runner\n")
    assert offending(module, ("lepton_kit.runs",)) == ["lepton_kit.runs.runner"]


def test_every_package_lists_what_to_read_first():
    for init in (ROOT / "lepton_kit").rglob("*/__init__.py"):
        package = importlib.import_module(".".join(init.relative_to(ROOT).parts[:-1]))
        assert 5 <= len(package.__all__) <= 15, init
        for name in package.__all__:
            is_module = importlib.util.find_spec(f"{package.__name__}.{name}") is not None
            assert is_module or hasattr(package, name), f"{init}: {name}"


def test_what_loads_no_model_of_the_kit_imports_neither_torch_nor_what_only_statistics_need():
    """They take two seconds and 250 MB: of `lepton deploy`, of a worker that captures, of one with a foreign model."""
    light = (
        "diagnosis.capture", "ops.deployment", "ops.incident_pages", "ops.operator", "ops.watch.worker", "serving.app",
        "serving.supervisor", "telemetry.alerts",
    )  # fmt: skip
    heavy = ("torch", "sklearn", "scipy.stats", "matplotlib")
    code = f"""
import importlib, sys
for name in {light}:
    importlib.import_module("lepton_kit." + name)
    if found := [one for one in {heavy} if one in sys.modules]:
        sys.exit(f"{{name}} imports {{', '.join(found)}}")
"""
    run = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
