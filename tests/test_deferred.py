"""Reading a notebook does not cost the grammar of addresses, which still works where it is asked for."""

from __future__ import annotations

import subprocess
import sys

LOOK = """
import sys
import lepton_kit.runs
import nbformat
assert "lark" not in sys.modules, "the grammar was compiled by importing nbformat"
for module in list(sys.modules.values()):
    hasattr(module, "__file__")  # as inspect does for torch, while that is imported
assert "lark" not in sys.modules, "the grammar was compiled by looking over all modules"
from jsonschema import Draft202012Validator
conforms = Draft202012Validator.FORMAT_CHECKER.conforms
assert (conforms("https://example.org/ö", "iri"), conforms("a b", "iri")) == (True, False)
assert "lark" in sys.modules
{}
"""


def look(after: str) -> None:
    subprocess.run([sys.executable, "-c", LOOK.format(after)], check=True, timeout=120)


def test_the_grammar_is_compiled_when_an_address_is_first_checked_and_not_before():
    look("import rfc3987_syntax; assert rfc3987_syntax.parse('iri', 'a:b')")


def test_whoever_wants_the_package_itself_gets_it():
    wanted = (
        "import lepton_kit.runs\nimport rfc3987_syntax.utils\nfrom rfc3987_syntax import parse\nparse('iri', 'a:b')"
    )
    subprocess.run([sys.executable, "-c", wanted], check=True, timeout=120)
