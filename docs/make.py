"""Writes docs/functions.md (what notebooks use of the package) and renders docs/ as a site where Quarto is found."""

from __future__ import annotations

import ast
import json
import subprocess
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from lepton_kit.reports.quarto import find_quarto

ROOT = Path(__file__).resolve().parents[1]
HEAD = """# Functions

What the notebooks and runbooks import, made from the code by `make docs`. `help(name)` in a notebook shows the whole
docstring: shapes, units, errors and examples.
"""


def main() -> None:
    """Write the page, render the site, and print where it is."""
    (ROOT / "docs/functions.md").write_text(functions_page(), encoding="utf-8")
    quarto = find_quarto()
    if quarto is None:
        print("docs/*.md are up to date; Quarto was not found, so there is no site")
        return
    subprocess.run([quarto.program, "render", ROOT / "docs", "--quiet"], check=True)
    print(f"docs/*.md are up to date; the site is {ROOT / 'docs-site/index.html'}")


def functions_page() -> str:
    """Return docs/functions.md."""
    parts = [HEAD]
    for module, names in sorted(used().items()):
        lines = [line for name in sorted(names) if (line := entry(module, name))]
        if lines:
            parts.append("\n".join([f"## `{module}`\n", *lines, ""]))
    return "\n".join(parts)


def used() -> dict[str, set[str]]:
    """Return by module the names that notebooks take from it; `lepton_kit` itself offers what `__all__` lists."""
    found: dict[str, set[str]] = defaultdict(set)
    found["lepton_kit"] = {*_public(_tree("lepton_kit"))}
    for path in sorted(ROOT.glob("**/*.ipynb")):
        if path.relative_to(ROOT).parts[0] in ("notebooks", "runbooks", "subjects"):
            code = _code(path)
            modules = {}  # by the name that the notebook gives them
            for node in ast.walk(code):
                if isinstance(node, ast.ImportFrom) and str(node.module).partition(".")[0] == "lepton_kit":
                    for one in node.names:
                        whole = f"{node.module}.{one.name}"
                        if _file(whole):
                            modules[one.asname or one.name] = whole
                        else:
                            found[str(node.module)].add(one.name)
            for node in ast.walk(code):
                if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in modules:
                    found[modules[node.value.id]].add(node.attr)
    return found


def entry(module: str, name: str) -> str:
    """Return the line of a function or class; empty for a constant."""
    for node in _tree(module).body:
        if isinstance(node, ast.ImportFrom) and node.module and name in {one.name for one in node.names}:
            return entry(node.module, name)
        if isinstance(node, ast.If):  # imports under TYPE_CHECKING
            for inner in node.body:
                if isinstance(inner, ast.ImportFrom) and inner.module and name in {one.name for one in inner.names}:
                    return entry(inner.module, name)
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name:
            arguments = f"({_arguments(node)})" if isinstance(node, ast.FunctionDef) else ""
            return f"- `{name}{arguments}`: {_first_sentence(ast.get_docstring(node) or '')}"
    return ""


def _arguments(node: ast.FunctionDef) -> str:
    for one in [*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs, node.args.vararg, node.args.kwarg]:
        if one is not None:
            one.annotation = None
    return ast.unparse(node.args).replace("'", '"')


def _first_sentence(text: str) -> str:
    words = " ".join(text.split("\n\n")[0].split())
    return words.partition(". ")[0].rstrip(".") + "."


def _public(tree: ast.Module) -> Iterator[str]:
    for node in tree.body:
        if isinstance(node, ast.Assign) and [ast.unparse(one) for one in node.targets] == ["__all__"]:
            yield from ast.literal_eval(node.value)


def _file(module: str) -> Path | None:
    place = ROOT.joinpath(*module.split("."))
    return next((one for one in (place.with_suffix(".py"), place / "__init__.py") if one.is_file()), None)


def _tree(module: str) -> ast.Module:
    path = _file(module)
    return ast.parse(path.read_text(encoding="utf-8") if path else "")


def _code(path: Path) -> ast.Module:
    cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
    return ast.parse("\n".join("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"))


if __name__ == "__main__":
    main()
