"""Print how many lines each part of the package has, with docstrings and without, and what is above its limits.

A line of code is one that a token other than a comment or a docstring touches.
"""

from __future__ import annotations

import ast
import io
import sys
import tokenize
from collections import Counter
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "lepton_kit"
LONGEST_FILE, LONGEST_FUNCTION = 500, 60
SKIPPED = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def lines_of_code(source: str) -> int:
    r"""Count the lines that are neither blank, comment nor docstring.

    >>> lines_of_code('def f():\n    "What it does."\n\n    return 1  # why\n')
    2
    """
    docstrings = {
        line
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        for line in range(node.lineno, (node.end_lineno or node.lineno) + 1)
    }
    touched = {
        line
        for token in tokenize.generate_tokens(io.StringIO(source).readline)
        if token.type not in SKIPPED
        for line in range(token.start[0], token.end[0] + 1)
    }
    return len(touched - docstrings)


def long_functions(source: str) -> list[tuple[str, int]]:
    """Return the functions of a file that are longer than they may be, with their lines."""
    functions = (
        node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    lengths = [(node.name, (node.end_lineno or 0) - node.lineno + 1) for node in functions]
    return [(name, lines) for name, lines in lengths if lines > LONGEST_FUNCTION]


def main() -> None:
    """Print the table, and what is too long."""
    lines: Counter[str] = Counter()
    code: Counter[str] = Counter()
    too_long = []
    for path in sorted(PACKAGE.rglob("*.py")):
        source, name = path.read_text(), path.relative_to(PACKAGE)
        part = f"{name.parts[0]}/" if len(name.parts) > 1 else "single files"
        count = source.count("\n")
        lines[part] += count
        code[part] += lines_of_code(source)
        too_long += [f"{name}: {count} lines"] if count > LONGEST_FILE else []
        too_long += [f"{name}: {function} has {length} lines" for function, length in long_functions(source)]
    print(f"{'lepton_kit':14} {'lines':>7} {'of code':>8}")
    for part, count in sorted(lines.items()):
        print(f"{part:14} {count:7,} {code[part]:8,}")
    print(f"{'in all':14} {lines.total():7,} {code.total():8,}")
    print(f"\nlonger than a file of {LONGEST_FILE} or a function of {LONGEST_FUNCTION} lines:")
    print(*(too_long or ["nothing"]), sep="\n")


if __name__ == "__main__":
    sys.exit(main())
