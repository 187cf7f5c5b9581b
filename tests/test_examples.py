"""The examples for schedulers: what they run is there, and what can be run here is run."""

import ast
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from itertools import pairwise
from pathlib import Path

import pytest
import typer
import yaml
from cronsim import CronSim
from helpers import ROOT

from lepton_kit.cli import app
from lepton_kit.runs.notebooks import locate_notebook

EXAMPLES = ROOT / "examples"
FILES = {
    path.relative_to(EXAMPLES).as_posix(): path.read_text()
    for path in sorted(EXAMPLES.rglob("*"))
    if path.is_file() and "__pycache__" not in path.parts
}
COMMANDS = typer.main.get_command(app).commands


def without_comments(text):
    return "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))


def lists(document):
    """Give the lists of words that a YAML document holds as arguments of the kit's image."""
    if isinstance(document, dict):
        for name, value in document.items():
            if name in ("args", "command") and isinstance(value, list) and value[0] in COMMANDS:
                yield value
            else:
                yield from lists(value)
    elif isinstance(document, list):
        for one in document:
            yield from lists(one)


def command_lines():
    """Give each command of `lepton` in the examples: its file, and its words."""
    for name, text in FILES.items():
        if name == "README.md":
            continue
        for line in re.findall(r"(?<![\w/-])(?:/opt/lepton/bin/)?lepton ([a-z]+\b[^&\n]*)", without_comments(text)):
            yield name, shlex.split(line.replace("\\%", "%") + '"' * (line.count('"') % 2))  # Python's own string ends
        if name.endswith(".yaml"):
            for document in yaml.safe_load_all(text):
                yield from ((name, words) for words in lists(document))
    entry, arguments = re.findall(r"(?m)^(?:ENTRYPOINT|CMD) (.*)$", FILES["container/Containerfile"])
    yield "container/Containerfile", [*ast.literal_eval(entry)[1:], *ast.literal_eval(arguments)]


@pytest.mark.parametrize(
    ("name", "words"), list(command_lines()), ids=lambda one: one if isinstance(one, str) else one[0]
)
def test_a_command_of_an_example_is_one_with_these_options(name, words):
    command = COMMANDS[words[0]]
    known = {option for one in command.params for option in (*one.opts, *one.secondary_opts)}
    assert {word for word in words if word.startswith("-")} <= known
    if words[0] == "run" and "{" not in words[1]:
        assert locate_notebook(words[1], ROOT).is_file()


def test_commands_are_found_in_each_kind_of_example():
    found = {name for name, _ in command_lines()}
    assert found == set(FILES) - {"README.md", "systemd/lepton-drift.timer"}


def test_the_readme_names_each_example():
    linked = re.findall(r"\]\((\w[^)]*)\)", FILES["README.md"])
    assert {Path(name).parts[0] for name in FILES} - {"README.md"} == {Path(name).parts[0] for name in linked}


def test_each_schedule_is_due_at_some_time():
    lines = [line for line in FILES["crontab"].splitlines() if re.match(r"[\d*]", line)]
    crons = [" ".join(line.split()[:5]) for line in lines]
    crons += re.findall(r'(?:schedule=|schedule: |cron: )"([^"]+)"', "\n".join(FILES.values()))
    assert len(crons) == 5
    for cron in crons:
        assert next(CronSim(cron, datetime(2026, 1, 1, tzinfo=UTC))).year == 2026


def test_a_line_of_the_crontab_runs_as_cron_runs_it_and_once_a_day(tmp_path):
    line = next(one for one in FILES["crontab"].splitlines() if "drift-watch" in one)
    shell = line.split(maxsplit=5)[5].replace("\\%", "%").replace("/srv/lepton", str(tmp_path))
    (tmp_path / "lepton.toml").write_text("")
    environment = {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin", "HOME": str(tmp_path)}
    for _ in range(2):
        done = subprocess.run(["/bin/sh", "-c", shell], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
    assert len(list((tmp_path / "runs").glob("*-drift-watch-*"))) == 1


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not installed")
def test_systemd_takes_the_units(tmp_path):
    for path in (EXAMPLES / "systemd").iterdir():
        text = path.read_text().replace("/opt/lepton/bin/", f"{Path(sys.executable).parent}/")
        (tmp_path / path.name).write_text(text.replace("/srv/lepton", str(tmp_path)))
    units = sorted(map(str, tmp_path.glob("lepton-*")))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", *units],
        capture_output=True, text=True, env={**os.environ, "SYSTEMD_UNIT_PATH": f"{tmp_path}:"},
    )  # fmt: skip
    assert [line for line in done.stderr.splitlines() if "lepton" in line] == []


@pytest.mark.parametrize("name", [name for name in FILES if name.endswith((".yaml", ".yml"))])
def test_a_yaml_file_is_whole_and_the_files_that_it_mounts_are_there(name):
    documents = list(yaml.safe_load_all(FILES[name]))
    assert all(isinstance(one, dict) for one in documents)
    mounted = re.findall(r"- (\.\./[^:]+):", FILES[name])
    for path in mounted:
        assert ((EXAMPLES / name).parent / path).exists() or path.endswith("webhook-token"), path


def test_the_steps_of_the_airflow_dag_follow_each_other():
    tree = ast.parse(FILES["airflow_dag.py"])
    names = [node.value.value for node in ast.walk(tree) if isinstance(node, ast.keyword) and node.arg == "task_id"]
    assert list(pairwise(names)) == [("drift", "health")]
    run = next(
        node.value.value for node in ast.walk(tree) if isinstance(node, ast.Assign) and node.targets[0].id == "RUN"
    )
    assert run.format(runbook="x").endswith("lepton run x --key x-{{ ds }} --events --timeout 1800 --retries 1")


def test_the_development_container_sets_up_by_a_verb_and_forwards_the_ports_that_commands_listen_on():
    made = json.loads((ROOT / ".devcontainer" / "devcontainer.json").read_text())
    verb = made["postCreateCommand"].removeprefix("make ")
    assert re.search(rf"(?m)^{verb}:", (ROOT / "Makefile").read_text())
    ports = {name: next(p.default for p in COMMANDS[name].params if p.name == "port") for name in ("watch", "report")}
    assert set(made["forwardPorts"]) == {8888, *ports.values()}
    assert set(made["portsAttributes"]) == set(map(str, made["forwardPorts"]))
