"""README, the pages of docs/, the guide for contributors and the Makefile say what is so."""

import importlib.util
import re
import tomllib
from pathlib import Path

import pytest
import typer.main
from helpers import ROOT
from typer.cli import app as typer_cli
from typer.testing import CliRunner

import lepton_kit
from lepton_kit.cli import app
from lepton_kit.diagnosis.evidence import QUESTIONS
from lepton_kit.project.settings import read_settings
from lepton_kit.runs.warm.lease import IDLE_S
from lepton_kit.telemetry.declaration import Declaration
from lepton_kit.telemetry.health import last_periods, sli_table
from lepton_kit.telemetry.recordings import read_recording

README = (ROOT / "README.md").read_text()
DOCS = {path.name: path.read_text() for path in sorted((ROOT / "docs").glob("*.md"))}
PAGES = {"README.md": README, "README.zh.md": (ROOT / "README.zh.md").read_text(), **DOCS}
MAKEFILE = (ROOT / "Makefile").read_text()
COMMANDS = sorted(typer.main.get_command(app).commands)


@pytest.mark.parametrize("verb", sorted(set(re.findall(r"make ([a-z]+)\b", README)) - {"make"}))
def test_every_make_verb_in_the_readme_is_there_and_has_help(verb):
    if verb == "and":  # "Python, make and a few minutes"
        return
    assert re.search(rf"(?m)^{verb}:.*## ", MAKEFILE)


def test_the_readme_is_read_in_a_few_minutes():
    assert len(README.split()) <= 900


def test_the_reference_of_commands_is_what_the_code_says():
    made = CliRunner().invoke(typer_cli, ["lepton_kit.cli", "utils", "docs", "--name", "lepton"])
    assert made.exit_code == 0, made.output
    assert DOCS["commands.md"].strip() == made.stdout.strip(), "run `make docs`"


def test_the_reference_of_functions_is_what_the_code_says():
    spec = importlib.util.spec_from_file_location("make_docs", ROOT / "docs/make.py")
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    assert DOCS["functions.md"] == made.functions_page(), "run `make docs`"
    words = set(lepton_kit.__all__) - {"Secret"}  # a type of parameters, which has no docstring
    assert {f"- `{name}" for name in words} <= set(re.findall(r"(?m)^- `\w+", DOCS["functions.md"]))


def test_the_site_of_docs_lists_every_page():
    listed = re.findall(r"\w+\.md\b", (ROOT / "docs/_quarto.yml").read_text())
    assert sorted(listed) == sorted(DOCS)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"`?lepton ([a-z]+) ?", "".join(PAGES.values())))))
def test_every_command_in_the_texts_is_there(command):
    assert command in COMMANDS


@pytest.mark.parametrize("page", PAGES)
def test_every_link_of_a_page_leads_somewhere(page):
    folder = ROOT / "docs" if page in DOCS else ROOT
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)|src=\"([^\"]+)\"", PAGES[page])
    assert [target for pair in targets if not (folder / (target := pair[0] or pair[1])).exists()] == []


GUIDES = {name: (ROOT / name).read_text() for name in ("ARCHITECTURE.md", "CONTRIBUTING.md")}
TEXTS = {**PAGES, **GUIDES}
COMMAND = typer.main.get_command(app)


def options_of(command):
    """Return the options of a command, and of those below it, with their defaults."""
    below = getattr(command, "commands", {}).values()
    mine = {option: one.default for one in command.params for option in (*one.opts, *one.secondary_opts)}
    return {**mine, **{option: default for one in below for option, default in options_of(one).items()}}


@pytest.mark.parametrize("text", sorted({*TEXTS} - {"commands.md"}))
def test_every_option_variable_and_make_verb_of_the_texts_is_there(text):
    code = "".join(path.read_text() for path in (ROOT / "lepton_kit").rglob("*.py")) + MAKEFILE
    words = TEXTS[text].replace("npm install --no-save --prefix .axe axe-core", "").replace("papermill --engine", "")
    assert {one for one in re.findall(r"`(--[a-z-]+)", words) if one not in options_of(COMMAND)} == set()
    assert {name for name in re.findall(r"\bLEPTON_[A-Z]+\b", words) if name not in code} == set()
    assert {verb for verb in re.findall(r"`make ([a-z]+)`", words) if f"\n{verb}:" not in MAKEFILE} == set()


def test_the_addresses_and_times_that_the_readme_tells_are_the_defaults():
    ports = {name: options_of(COMMAND.commands[name])["--port"] for name in ("serve", "watch")}
    shown = re.findall(r"(?m)^lepton (serve|watch)\b.*# http://127\.0\.0\.1:(\d+)", DOCS["services.md"])
    assert {name: int(port) for name, port in shown} == ports
    grace = (ROOT / "lepton_kit/runs/engine.py").read_text()  # which papermill alone imports
    assert "has two seconds to clean up" in DOCS["runs.md"] and "GRACE_S = 2.0" in grace
    assert "alive for an hour" in DOCS["runs.md"] and options_of(COMMAND.commands["run"])["--keep-for"] == 3600
    assert "after ten idle minutes" in DOCS["runs.md"] and IDLE_S == 600


def test_the_numbers_that_the_readme_tells_are_counted():
    recording = read_recording(ROOT / "runbooks" / "recordings" / "stale-feed")
    assert "| Is the service as stable as it was? Nine measures" in DOCS["notebooks.md"]
    assert len(sli_table(recording, last_periods(recording))) == 9
    assert "some forty questions" in DOCS["incidents.md"] and len(QUESTIONS) == pytest.approx(40, abs=3)


COMMAND_LINES = sorted(
    {
        " ".join(line.split("#")[0].split())
        for text in [README, *(text for name, text in DOCS.items() if name != "commands.md")]
        for line in re.findall(r"(?m)`(lepton [^`]*)`|^(lepton .*)$", text)
        for line in line
        if line
    }
)


@pytest.mark.parametrize("line", COMMAND_LINES)
def test_every_option_of_a_command_in_the_texts_is_one_of_it(line):
    name = line.split()[1]
    assert set(re.findall(r"(?<![\w-])--?[a-z-]+", line)) <= set(options_of(COMMAND.commands[name]))


@pytest.mark.parametrize("guide", GUIDES)
def test_every_file_that_a_guide_names_is_there(guide):
    text = GUIDES[guide].replace("`runs/<run id>/`", "")
    inline = re.findall(r"`([\w./-]+\.(?:py|toml|yml|json|md|lock|ipynb))`", text)
    drawn = re.findall(r"(?m)(?<![\w*/-])[a-z]\w*/[\w/]+\.py", text)
    places = [
        ROOT,
        ROOT / "notebooks",
        ROOT / "runbooks",
        ROOT / "lepton_kit",
        *(path for path in (ROOT / "lepton_kit").rglob("*") if path.is_dir()),
    ]
    named = {name for name in [*inline, *drawn] if "NAME" not in name}
    assert {name for name in named if not any((place / name).exists() for place in places)} == set()


def test_every_table_of_the_code_that_the_guide_says_to_add_to_is_there():
    for name, file in re.findall(r"`([A-Z_]{4,})`\s+(?:of|in) `([\w./]+)`", TEXTS["CONTRIBUTING.md"]):
        assert re.search(rf"(?m)^{name}\b", (ROOT / file).read_text()), (name, file)


def test_what_make_says_of_the_demo_is_what_it_runs():
    [told] = re.findall(r"(?m)^demo: .*## (.*)$", MAKEFILE)
    steps = [Path(step.notebook).stem for step in read_settings(ROOT).pipelines["goog"].steps]
    numbers = sorted(name[:2] for name in steps if name[:2].isdecimal())
    assert f"notebooks {numbers[0]} to {numbers[-1]}" in told
    assert numbers == [f"{number:02}" for number in range(int(numbers[0]), int(numbers[-1]) + 1)]
    recipe = MAKEFILE.split("\ndemo:")[1].split("\n\n")[0]
    assert recipe.strip().splitlines()[-1].strip() == "@$(BIN)/lepton demo"  # whose last line is the incident's page


@pytest.mark.parametrize("verb", sorted(set(re.findall(r"(?m)^([a-z]+):.*## ", MAKEFILE))))
def test_every_make_verb_runs_commands_that_are_there(verb):
    recipe = MAKEFILE.split(f"\n{verb}:")[1].split("\n\n")[0]
    for command in re.findall(r"\(BIN\)/lepton (\w+)", recipe):
        assert command in COMMANDS
    for script in re.findall(r"(?:\(BIN\)/python|for script in) ([\w/*]+\.py)", recipe):
        assert list(ROOT.glob(script))


def test_both_readmes_show_the_same_declaration():
    shown = [
        tomllib.loads(re.search(r"```toml\n(.*?)```", PAGES[name], re.S)[1]) for name in ("README.md", "README.zh.md")
    ]
    assert shown[0] == shown[1]
    Declaration.model_validate(shown[0]["services"]["scoring"])
