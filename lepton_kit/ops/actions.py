"""Runs what a service declares as its actions: a command that no shell reads, or one HTTP request.

`{workers}` and `{version}` are filled in from a number and the name of a version, and nothing else is. What a command
or a server said is kept in bounded length, without the values of secrets.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, get_args

import httpx
from pydantic import TypeAdapter, ValidationError

from lepton_kit.errors import InputError
from lepton_kit.project.settings import read_settings
from lepton_kit.runs.redaction import Redactor
from lepton_kit.secrets import is_reference, resolve_secret
from lepton_kit.telemetry.declaration import Command, Http, Placeholder
from lepton_kit.telemetry.recordings import Version
from lepton_kit.tls import trusted

MOST_WORKERS = 1000
MOST_OUTPUT = 10_000
"""How many of the last characters of the output are stored."""

MOST_READ = 1 << 20
"""How many bytes at the end of the output are searched."""

MOST_WRITTEN = 64 << 20
"""A command that prints more is killed: its output is buffered on disk."""

GRACE_S, LOOK_S = 2.0, 0.05
PLACEHOLDER = re.compile(r"\{([^{}]*)\}")
KNOWN = get_args(Placeholder)
VERSION: TypeAdapter[str] = TypeAdapter(Version)

Ending = Literal["done", "failed", "timed out", "not run"]


@dataclass(frozen=True)
class Values:
    """What is filled into an action.

    Raises InputError when a number of workers or the name of a version is none.

    Examples
    --------
    >>> Values(workers=3, version="v2").workers
    3
    >>> Values(version="v2; reboot")
    Traceback (most recent call last):
    lepton_kit.errors.InputError: version = 'v2; reboot': must be letters, digits, '.', '_' and '-', 100 at most
    """

    workers: int | None = None
    version: str | None = None

    def __post_init__(self) -> None:
        count = self.workers
        if count is not None and (type(count) is not int or not 1 <= count <= MOST_WORKERS):
            raise InputError(f"workers = {count!r}: must be a whole number from 1 to {MOST_WORKERS}")
        if self.version is not None:
            try:
                VERSION.validate_python(self.version, strict=True)
            except ValidationError as error:
                raise InputError(
                    f"version = {self.version!r}: must be letters, digits, '.', '_' and '-', 100 at most"
                ) from error


@dataclass(frozen=True)
class Outcome:
    """How an action ended.

    Parameters
    ----------
    key
        Of the declaration, such as `services.scoring.actions.scale`.
    shown
        The command or the request as it was filled in; a secret is shown as its reference.
    ending
        `not run` of a dry run, or where it could not be begun.
    code
        The exit code, or the HTTP status; None where there is none.
    output
        The end of the output, without the values of secrets.
    seconds
        How long it took.
    """

    key: str
    shown: str
    ending: Ending
    code: int | None = None
    output: str = ""
    seconds: float = 0.0

    @property
    def is_done(self) -> bool:
        """Whether the action was carried out, by its own word."""
        return self.ending == "done"

    def __str__(self) -> str:
        """Return in a sentence how it ended.

        >>> str(Outcome("services.a.actions.restart", "false", "failed", 1, "no such unit"))
        "'false' failed (1): no such unit"
        """
        code = "" if self.code is None else f" ({self.code})"
        return f"{self.shown!r} {self.ending}{code}" + (f": {self.output[-300:]}" if self.output else "")


def run_action(key: str, action: Command | Http, values: Values, project: Path, *, is_dry: bool = False) -> Outcome:
    """Run an action of a service in the project's folder, within the time that it declares.

    A command that takes longer is killed, with all that it started; where it ends in time, what it left running goes
    on. It is given the environment without the variables of the kit, and a bare `python` is the one that the kit runs
    on: name another one by its path.

    `key` is where the action is declared, for messages. A dry run does nothing: its outcome shows what would be done.

    Raises
    ------
    InputError
        When a placeholder is unknown or its value is not given, or the token cannot be read; nothing is done then.
    """
    filled = _filled(key, action, values)
    shown = _shown(filled)
    if is_dry:
        return Outcome(key, shown, "not run")
    redactor = Redactor(_secrets(project, action))
    began = time.monotonic()
    if isinstance(filled, Command):
        ending, code, output = _run(filled, project)
    else:
        ending, code, output = _ask(filled, project)
    text = redactor.text(output.decode("utf-8", "replace").strip())[-MOST_OUTPUT:]
    return Outcome(key, redactor.text(shown), ending, code, text, time.monotonic() - began)


def check_action(key: str, action: Command | Http) -> None:
    """Raise an InputError that names the key where an action holds a placeholder that is unknown."""
    for name in _placeholders(action):
        if name not in KNOWN:
            raise InputError(f"{key}: {{{name}}}: must be {' or '.join(f'{{{one}}}' for one in KNOWN)}")


def needs(action: Command | Http) -> frozenset[str]:
    """Return the placeholders that an action holds.

    >>> sorted(needs(Command(run=("scale", "--to={workers}"))))
    ['workers']
    """
    return frozenset(_placeholders(action))


def _placeholders(action: Command | Http) -> list[str]:
    held = action.run if isinstance(action, Command) else [action.url, action.body]
    return [name for text in _texts(held) for name in PLACEHOLDER.findall(text)]


def _texts(held: Any) -> Iterator[str]:
    """Yield the texts in lists and objects, however deep they lie; also an object's names."""
    if isinstance(held, str):
        yield held
    elif isinstance(held, Mapping):
        yield from _texts([*held, *held.values()])
    elif isinstance(held, list | tuple):
        for one in held:
            yield from _texts(one)


def _filled(key: str, action: Command | Http, values: Values) -> Command | Http:
    check_action(key, action)
    given = {name: getattr(values, name) for name in KNOWN if getattr(values, name) is not None}
    for name in sorted(needs(action) - given.keys()):
        raise InputError(f"{key}: needs a value for {{{name}}}, and none is given")
    if isinstance(action, Command):
        return action.model_copy(update={"run": tuple(_fill(list(action.run), given))})
    return action.model_copy(update={"url": _fill(action.url, given), "body": _fill(action.body, given)})


def _fill(held: Any, given: Mapping[str, Any]) -> Any:
    """Return texts with their placeholders filled in; a text that is a placeholder alone becomes the value.

    >>> _fill({"replicas": "{workers}", "image": "scoring:{version}"}, {"workers": 3, "version": "v2"})
    {'replicas': 3, 'image': 'scoring:v2'}
    """
    if isinstance(held, str):
        alone = PLACEHOLDER.fullmatch(held)
        return given[alone[1]] if alone else PLACEHOLDER.sub(lambda found: str(given[found[1]]), held)
    if isinstance(held, Mapping):
        return {_fill(str(name), given): _fill(value, given) for name, value in held.items()}
    return [_fill(one, given) for one in held] if isinstance(held, list | tuple) else held


def _shown(action: Command | Http) -> str:
    if isinstance(action, Command):
        return shlex.join(map(str, action.run))
    body = f" {json.dumps(action.body)}" if action.body else ""
    token = f" (Authorization: Bearer {action.token})" if action.token else ""
    return f"{action.method} {action.url}{body}{token}"


def _secrets(project: Path, action: Command | Http) -> dict[str, str]:
    """Return the values of all secrets that the project's settings name, and of the action's own, by reference."""
    found: dict[str, str] = {}
    for reference in filter(is_reference, _texts([read_settings(project).model_dump(), action.model_dump()])):
        with contextlib.suppress(InputError):  # not here: then no output can hold it
            found[reference] = resolve_secret(reference, project)
    return found


def command_environment() -> dict[str, str]:
    """Return the environment of a declared command: without the kit's variables, and with the kit's `python` first."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LEPTON_")}
    return kept | {"PATH": os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])}


def _run(command: Command, project: Path) -> tuple[Ending, int | None, bytes]:
    with tempfile.TemporaryFile() as said:  # no pipe: what a command leaves running may go on writing
        try:
            process = subprocess.Popen(
                [str(word) for word in command.run],
                cwd=project,
                env=command_environment(),
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except (OSError, ValueError) as error:
            return "not run", None, f"{type(error).__name__}: {getattr(error, 'strerror', '') or error}".encode()
        try:
            problem = _wait(process, said, command.timeout)
        except BaseException:
            _kill_all(process)
            raise
        end = said.seek(0, os.SEEK_END)
        said.seek(max(0, end - MOST_READ))
        output = said.read(MOST_READ)
    if problem:
        return "timed out", None, output + f"\n[{problem}]".encode()
    return "done" if process.returncode == 0 else "failed", process.returncode, output


def _wait(process: subprocess.Popen[bytes], said: IO[bytes], seconds: float) -> str:
    """Wait until a command has ended; kill it where that takes too long, or it says too much, and return why."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            process.wait(min(LOOK_S, max(0.0, deadline - time.monotonic())))
            return ""
        except subprocess.TimeoutExpired:
            is_late, is_loud = time.monotonic() >= deadline, os.fstat(said.fileno()).st_size > MOST_WRITTEN
        if is_late or is_loud:
            _kill_all(process)
            return f"killed after {seconds:g} s" if is_late else f"killed: printed more than {MOST_WRITTEN >> 20} MiB"


def _kill_all(process: subprocess.Popen[bytes]) -> None:
    """End a command and all that it started: asked first, then at once."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(GRACE_S)
        except ProcessLookupError:
            break
        except subprocess.TimeoutExpired:
            continue
    process.wait()


def _ask(request: Http, project: Path) -> tuple[Ending, int | None, bytes]:
    token = {"Authorization": f"Bearer {resolve_secret(request.token, project)}"} if request.token else {}
    deadline, output = time.monotonic() + request.timeout, b""
    try:
        with (
            httpx.Client(trust_env=False, timeout=request.timeout, headers=token, verify=trusted()) as client,
            client.stream(request.method, request.url, json=request.body or None) as answer,
        ):
            for block in answer.iter_bytes():
                output = (output + block)[-MOST_READ:]
                if time.monotonic() > deadline:
                    return "timed out", answer.status_code, output
            return "done" if answer.is_success else "failed", answer.status_code, output
    except httpx.TimeoutException:
        return "timed out", None, output
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        return "not run" if isinstance(error, httpx.ConnectError) else "failed", None, str(error).encode()
