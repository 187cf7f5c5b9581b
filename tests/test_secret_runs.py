import base64
import html
import json
import urllib.parse

import pytest
from helpers import lepton, write_notebook

from lepton_kit.errors import InputError
from lepton_kit.runs.runner import Request, prepare, run_notebook

VALUE = 'p<ss&w"örd/with\\slash+42'
PARAMETERS = "from lepton_kit import Secret\napi_key: Secret = 'env:OUR_KEY'  # the service's key"
LOUD = [
    "key = lk.secret('api_key')\nassert len(key) == 24\nprint(key)",
    "import os; assert not [v for v in os.environ.values() if key in v]\nkey",
    "print(repr(key), ascii(key)); import json; print(json.dumps(key), json.dumps({'a': json.dumps(key)}))",
    "import base64\nfor n in range(3): print(base64.b64encode(b'x' * n + key.encode() + b'tail').decode())",
    "import html; display({'text/html': f'<b>{html.escape(key)}</b>'}, raw=True)",
    "import urllib.parse; print(urllib.parse.quote(key), key.encode().hex())",
    "import sys, time\nfor c in key: print(c, end=''); sys.stdout.flush(); time.sleep(.02)",
    "lk.record('found', key); lk.record('deep', {'a': [key]})",
    "import os; os.write(1, key.encode()); os.write(2, repr(key).encode())",
    "lk.artifact('leak.txt').write_text('x' + key); open('stray.bin', 'wb').write(base64.b64encode(key.encode()))",
    "import subprocess; assert key not in subprocess.run(['env'], capture_output=True, text=True).stdout",
    "lk.expect(True, key, value=key)",
    "local = {'key': key}; raise ValueError(f'bad {key}')",
]


def encodings(value):
    """Forms in which a value may hide, written here anew so that the kit's own list is not its judge."""
    raw = value.encode()
    yield from (
        value,
        repr(value)[1:-1],
        ascii(value)[1:-1],
        json.dumps(value)[1:-1],
        json.dumps(json.dumps(value))[3:-3],
    )
    yield from (html.escape(value), html.escape(value, quote=False), urllib.parse.quote(value), raw.hex())
    yield from (base64.b64encode(b"x" * n + raw + b"tail").decode()[4 : 4 + len(raw)] for n in range(3))


def leaks(project):
    found = []
    for path in (each for each in project.rglob("*") if each.is_file() and "notebooks" not in each.parts):
        text = path.read_bytes().decode("utf-8", "replace")
        text = text.replace("\\n", "").replace("\n", "")
        found += [(path.name, form) for form in encodings(VALUE) if form in text]
    return found


@pytest.fixture
def loud(project, monkeypatch):
    monkeypatch.setenv("OUR_KEY", VALUE)
    return write_notebook(project / "notebooks/loud.ipynb", LOUD, PARAMETERS)


def test_the_value_of_a_secret_is_in_no_byte_that_a_run_leaves(project, loud):
    events = []
    run = run_notebook(Request(loud), project, events.append)
    assert run.status == "failed"
    assert run.error.name == "SecretLeaked"
    assert "leak.txt" in run.error.message and "stray.bin" in run.error.message
    assert run.parameters == {"api_key": "env:OUR_KEY"}
    assert run.secrets == {"api_key": "env:OUR_KEY"}
    assert run.results["found"].value == "[secret api_key]"
    assert [cell.status for cell in run.cells][-2:] == ["completed", "failed"]
    assert leaks(project) == []
    assert VALUE not in json.dumps([event.text for event in events], ensure_ascii=False)


def test_a_secret_from_a_file_arrives_and_the_run_may_succeed(project):
    (project / "key.txt").write_text("from-a-file-123\n")
    path = write_notebook(
        project / "notebooks/n.ipynb", ["assert lk.secret('api_key') == 'from-a-file-123'"],
        PARAMETERS.replace("env:OUR_KEY", "file:key.txt"),
    )  # fmt: skip
    assert run_notebook(Request(path), project).status == "succeeded"


def test_a_secret_given_by_value_is_refused_and_not_repeated(project, loud):
    with pytest.raises(InputError, match=r"api_key.*must be a reference: env:NAME") as refused:
        prepare(Request(loud, {"api_key": "hunter2hunter2"}), project)
    assert "hunter2" not in str(refused.value)
    made = lepton("run", "loud", "-p", "api_key", "hunter2hunter2", project=project)
    assert made.returncode == 2
    assert "hunter2" not in made.stdout + made.stderr


def test_a_variable_that_is_not_there_is_named_before_anything_runs(project, loud, monkeypatch):
    monkeypatch.delenv("OUR_KEY")
    with pytest.raises(InputError, match="there is no environment variable 'OUR_KEY'"):
        run_notebook(Request(loud), project)
    assert not list(project.glob("runs/*/manifest.json"))


def test_a_name_that_is_no_secret_is_told_in_the_notebook(project):
    path = write_notebook(project / "notebooks/n.ipynb", ["lk.secret('other')"])
    run = run_notebook(Request(path), project)
    assert (run.status, run.error.name) == ("failed", "InputError")
    assert "secret 'other'" in run.error.message
