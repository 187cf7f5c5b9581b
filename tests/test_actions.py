"""What a service declares as its actions: filled in from typed values, run without a shell, ended in time."""

from __future__ import annotations

import json
import sys
import time
from http.server import BaseHTTPRequestHandler

import psutil
import pytest
from helpers import listening
from services import wait_for

from lepton_kit.errors import InputError
from lepton_kit.ops.actions import MOST_OUTPUT, Values, run_action
from lepton_kit.project.settings import read_settings
from lepton_kit.telemetry.declaration import Command, Http

KEY = "services.scoring.actions.scale"


def python(program: str, *words: str, timeout: float = 30) -> Command:
    return Command(run=(sys.executable, "-c", program, *words), timeout=timeout)


@pytest.fixture
def server():
    """A server that keeps what it is asked and answers with the status that its path ends in."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            asked.append((self.path, json.loads(body or b"null"), self.headers.get("Authorization")))
            if self.path == "/slow":
                time.sleep(1.5)
            said = f"you said {self.headers.get('Authorization')}".encode()
            self.send_response(int(self.path[-3:]) if self.path[-3:].isdigit() else 200)
            self.send_header("Content-Length", str(len(said)))
            self.end_headers()
            self.wfile.write(said)

        def log_message(self, *_):
            pass

    with listening(Handler) as address:
        yield address, asked


def test_a_bare_python_is_the_one_that_the_kit_runs_on(project, monkeypatch):
    other = project / "bin/python"
    other.parent.mkdir()
    other.write_text("#!/bin/sh\necho another\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{other.parent}:/usr/bin:/bin")
    done = run_action(KEY, Command(run=("python", "-c", "import sys; print(sys.prefix)")), Values(), project)
    assert done.output == sys.prefix


def test_a_command_is_filled_from_typed_values_and_no_shell_reads_it(project):
    program = "import json, os, sys; print(json.dumps([sys.argv[1:], os.getcwd()]))"
    given = python(program, "--replicas={workers}", "{version}", "$HOME; echo `id`")
    done = run_action(KEY, given, Values(workers=3, version="v2.1"), project)
    assert (done.ending, done.code) == ("done", 0)
    assert json.loads(done.output) == [["--replicas=3", "v2.1", "$HOME; echo `id`"], str(project)]


def test_a_dry_run_shows_the_exact_command_and_does_nothing(project, server):
    address, asked = server
    given = Command(run=("touch", "made by {version}"))
    shown = run_action(KEY, given, Values(version="v2"), project, is_dry=True)
    assert (shown.shown, shown.ending) == ("touch 'made by v2'", "not run")
    request = Http(url=address + "/scale", body={"replicas": "{workers}"}, token="env:NOT_HERE")
    shown = run_action(KEY, request, Values(workers=4), project, is_dry=True)
    assert shown.shown == f'POST {address}/scale {{"replicas": 4}} (Authorization: Bearer env:NOT_HERE)'
    assert not list(project.glob("made*"))
    assert not asked


@pytest.mark.parametrize(
    ("word", "said"),
    [("{host}", r"\{host\}: must be \{workers\} or \{version\}"), ("{}", "must be"), ("{workers}", "needs a value")],
)
def test_no_other_placeholder_and_none_without_its_value_is_filled(project, word, said):
    for given in (Command(run=("touch", f"x{word}")), Http(url="http://127.0.0.1:9/", body={"a": [word]})):
        with pytest.raises(InputError, match=f"^{KEY}: .*{said}"):
            run_action(KEY, given, Values(version="v1"), project)
    assert not list(project.glob("x*"))


@pytest.mark.parametrize("wrong", [0, -1, 1001, True, "3", 2.0])
def test_a_number_of_workers_is_a_whole_number_in_range(wrong):
    with pytest.raises(InputError, match="workers = "):
        Values(workers=wrong)


@pytest.mark.parametrize("wrong", ["", "-rf", "a b", "v1;reboot", "../x", "v" * 101, "{workers}", "v1\n"])
def test_a_version_is_a_plain_name(wrong):
    with pytest.raises(InputError, match="version = "):
        Values(version=wrong)


def test_a_command_that_hangs_is_killed_with_all_that_it_started(project):
    program = (
        "import subprocess, sys, time, pathlib\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\n"
        "pathlib.Path('child').write_text(str(child.pid)); print('begun', flush=True); time.sleep(600)"
    )
    began = time.monotonic()
    done = run_action(KEY, python(program, timeout=4), Values(), project)  # s: all of it has begun by then
    assert (done.ending, done.code, time.monotonic() - began < 300) == ("timed out", None, True)
    assert done.output == "begun\n\n[killed after 4 s]"
    child = int((project / "child").read_text())
    wait_for(lambda: not psutil.pid_exists(child) or psutil.Process(child).status() == psutil.STATUS_ZOMBIE)


def test_what_a_command_leaves_running_goes_on_and_is_not_waited_for(project):
    program = (
        "import subprocess, sys\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(600)'])\nprint(child.pid)"
    )
    done = run_action(KEY, python(program), Values(), project)
    child = psutil.Process(int(done.output))
    assert done.is_done
    assert child.is_running()
    child.kill()


def test_what_is_kept_is_the_end_of_what_was_said_without_any_secret(project, monkeypatch):
    monkeypatch.setenv("HOOK", "hunter2-of-the-hook")
    monkeypatch.setenv("LEPTON_ADMIN_TOKEN", "an administrator's")
    (project / "lepton.toml").write_text("[watch]\ntoken = 'env:HOOK'\n")
    program = (
        "import base64, os, sys\n"
        f"print('x' * {2 * MOST_OUTPUT})\nprint(os.environ['HOOK'])\n"
        "print(base64.b64encode(os.environ['HOOK'].encode()).decode(), file=sys.stderr)\n"
        "print(os.environ.get('LEPTON_ADMIN_TOKEN')); sys.exit(3)"
    )
    done = run_action(KEY, python(program), Values(), project)
    assert (done.ending, done.code, len(done.output)) == ("failed", 3, MOST_OUTPUT)
    assert done.output.endswith("[secret env:HOOK]\n[secret env:HOOK]\nNone")
    assert "hunter2" not in str(done)


def test_a_command_that_is_not_there_is_said(project):
    done = run_action(KEY, Command(run=("no-such-program",)), Values(), project)
    assert (done.ending, done.code) == ("not run", None)
    assert "No such file" in done.output


def test_a_request_carries_its_filled_body_and_its_token_which_is_never_kept(project, server):
    address, asked = server
    (project / "token").write_text("a secret of the server\n")
    body = {"replicas": "{workers}", "image": {"tag": "scoring:{version}"}}
    request = Http(url=address + "/v1/{version}", body=body, token="file:token")
    done = run_action(KEY, request, Values(workers=2, version="v3"), project)
    sent = {"replicas": 2, "image": {"tag": "scoring:v3"}}
    assert asked == [("/v1/v3", sent, "Bearer a secret of the server")]
    assert (done.ending, done.code, done.output) == ("done", 200, "you said Bearer [secret file:token]")


@pytest.mark.parametrize(("path", "ending", "code"), [("/503", "failed", 503), ("/302", "failed", 302)])
def test_an_answer_that_is_no_success_is_a_failure(project, server, path, ending, code):
    done = run_action(KEY, Http(url=server[0] + path), Values(), project)
    assert (done.ending, done.code) == (ending, code)


def test_a_server_that_is_slow_or_away_is_said(project, server):
    assert run_action(KEY, Http(url=server[0] + "/slow", timeout=0.3), Values(), project).ending == "timed out"
    assert run_action(KEY, Http(url="http://127.0.0.1:9/"), Values(), project).ending == "not run"


@pytest.mark.parametrize(
    ("given", "said"),
    [("[]", "run: Tuple should have at least 1 item"), ("{ url = 'ftp://x' }", "url: String should match pattern")],
)
def test_a_mistake_in_an_action_is_one_error_with_its_key(project, given, said):
    (project / "lepton.toml").write_text(f"[services.scoring.actions]\nscale = {given}\n")
    with pytest.raises(InputError, match=f"'{KEY}'.*{said}"):
        read_settings(project)
