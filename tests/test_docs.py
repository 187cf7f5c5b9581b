"""README says what is so."""

import re

import pytest
import typer.main
from helpers import ROOT

from lepton_kit.cli import app

README = (ROOT / "README.md").read_text()
MAKEFILE = (ROOT / "Makefile").read_text()
COMMANDS = sorted(typer.main.get_command(app).commands)


@pytest.mark.parametrize("verb", sorted(set(re.findall(r"make ([a-z]+)\b", README.split("## Layout")[0])) - {"make"}))
def test_every_make_verb_in_the_readme_is_there_and_has_help(verb):
    if verb == "and":  # "Python, make and a few minutes"
        return
    assert re.search(rf"(?m)^{verb}:.*## ", MAKEFILE)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_is_in_the_readme(command):
    assert f"`lepton {command}" in README


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`?lepton ([a-z]+) ?", README)) - {"command"}))
def test_every_command_in_the_readme_is_there(command):
    assert command in COMMANDS


@pytest.mark.parametrize("target", sorted(set(re.findall(r"\]\((?!https?:)([^)#]+)\)|src=\"([^\"]+)\"", README))))
def test_every_link_in_the_readme_leads_somewhere(target):
    assert (ROOT / (target[0] or target[1])).exists()
