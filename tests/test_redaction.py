"""What a run saves is what was printed, bit for bit, save for the values of secrets."""

import base64
import bz2
import gzip
import html
import io
import json
import lzma
import random
import shlex
import tarfile
import urllib.parse
import zipfile
from functools import cache

import markupsafe
import nbformat
import numpy as np
import pandas as pd
import pytest
import yaml
from helpers import write_notebook
from nbformat import v4

from lepton_kit.runs import redaction
from lepton_kit.runs.redaction import Redactor
from lepton_kit.runs.runner import Request, run_notebook
from lepton_kit.runs.saver import NotebookSaver

VALUES = ["7f3a-hunter2", 'p<ss&w"örd/with\\slash+42', "123456", "line one of it\nline two of it", "aaaaab"]
COLOUR = "\x1b[31m"


@cache
def forms(value):
    """How programs write a value, listed here anew so that the kit's own list is not its judge."""
    raw = value.encode()
    return [
        value, repr(value)[1:-1], ascii(value)[1:-1], json.dumps(value)[1:-1], html.escape(value), raw.hex(),
        urllib.parse.quote(value), urllib.parse.quote_plus(value), base64.b64encode(raw).decode(),
        json.dumps(json.dumps(value))[3:-3], json.dumps(value)[1:-1].replace("/", "\\/"), value.replace('"', '""'),
        base64.b32encode(raw).decode(), base64.b64encode(value.encode("utf-16-le")).decode(),
        yaml.safe_dump(value, default_style='"', width=1000).strip()[1:-1],
    ]  # fmt: skip


@cache
def redactor_of(value):
    return Redactor({"key": value})


def harmless_text(chance, value):
    """Characters that no form of the value is made of, so that none arises by chance."""
    alphabet = [c for c in "zyxwvZYXWV .,;:#*|~^éß漢🎉\t\n\r\x1b]m" if c not in "".join(forms(value))]
    return "".join(chance.choices(alphabet, k=chance.randrange(40)))


def in_pieces(text, chance):
    while text:
        size = chance.choice([1, 1, 2, 3, 5, 8, 13, 40])
        yield text[:size]
        text = text[size:]


def printed_and_expected(seed):
    chance = random.Random(seed)
    value = VALUES[seed % len(VALUES)]
    printed, expected = "", ""
    for _ in range(chance.randrange(1, 6)):
        plain = harmless_text(chance, value)
        printed, expected = printed + plain, expected + plain
        form = chance.choice(forms(value))
        kind = chance.random()
        if kind < 0.5:
            printed, expected = printed + form, expected + "[secret key]"
        elif kind < 0.75 and "\n" not in value:  # colours between its characters
            printed, expected = printed + COLOUR.join(form), expected + "[secret key]"
        else:  # it only begins as the value does
            begun = form[: chance.randrange(1, 5)] + "~"
            printed, expected = printed + begun, expected + begun
    return value, printed, expected, chance


@pytest.mark.parametrize("group", range(10))
def test_a_text_in_pieces_comes_out_with_only_the_secret_replaced(group):
    for seed in range(group * 100, group * 100 + 100):
        value, printed, expected, chance = printed_and_expected(seed)
        redactor = redactor_of(value)
        assert redactor.text(printed) == expected, seed
        stream = redactor.stream()
        shown = [stream.feed(piece) for piece in in_pieces(printed, chance)]
        assert "".join([*shown, stream.close()]) == expected, seed
        assert not any(form in "".join(shown) for form in forms(value)), seed


@pytest.mark.parametrize("seed", range(60))
def test_a_notebook_that_is_saved_while_it_grows_ends_as_what_was_printed(seed):
    value, printed, expected, chance = printed_and_expected(seed)
    cell = v4.new_code_cell("work()", metadata={"papermill": {"status": "running"}})
    cell.outputs = [v4.new_output("stream", name="stdout", text="")]
    saved = []
    saver = NotebookSaver(v4.new_notebook(cells=[cell]), saved.append, redactor_of(value))
    for piece in in_pieces(printed, chance):
        cell.outputs[0].text += piece
        saver.save(running=True)
        assert expected.startswith(text_in(saved[-1]))
    cell.metadata.papermill.status = "completed"  # nothing but the status says that no more comes
    saver.save(running=True)
    assert text_in(saved[-1]) == expected
    saver.save()
    assert text_in(saved[-1]) == expected


def text_in(content):
    return nbformat.reads(content.decode("utf-8", "surrogatepass"), 4).cells[0].outputs[0].text


def in_base(encode, before):
    return lambda value: encode(b"x" * before + value.encode() + b"tail")


WRITTEN = {
    "pandas": lambda value: pd.DataFrame({"a": [value]}).to_json().encode(),
    "json for pages": lambda value: json.dumps(value).replace("<", "\\u003c").replace("&", "\\u0026").encode(),
    "yaml": lambda value: yaml.safe_dump({"a": [value]}).encode(),
    "yaml in ascii": lambda value: yaml.safe_dump(value, default_style='"').encode(),
    "yaml in single quotes": lambda value: yaml.safe_dump(value, default_style="'", allow_unicode=True).encode(),
    "csv": lambda value: pd.DataFrame({"a": [value]}).to_csv().encode(),
    "markup": lambda value: str(markupsafe.escape(value)).encode(),
    "a shell's word": lambda value: shlex.quote(value).encode(),
    "utf-16": lambda value: value.encode("utf-16"),
    "utf-16 of macs": lambda value: ("x" + value).encode("utf-16-be"),
    "utf-16 in base64": lambda value: base64.b64encode(f"echo {value}".encode("utf-16-le")),
    "numpy's text": lambda value: np.array([value, "x"]).tobytes(),
    "gzip": lambda value: gzip.compress(value.encode()),
    "bzip2": lambda value: bz2.compress(value.encode()),
    "xz": lambda value: lzma.compress(value.encode()),
    "gzip of json": lambda value: gzip.compress(json.dumps({"a": value}).encode()),
    "gzip twice": lambda value: gzip.compress(gzip.compress(value.encode())),
    "zip": lambda value: zipped({"a/b.txt": value.encode()}),
    "zip in zip": lambda value: zipped({"c.zip": zipped({"b.txt": value.encode()})}),
    "zip, the second member": lambda value: zipped({"a": b"1", "b.gz": gzip.compress(value.encode())}),
    "a name in a zip": lambda value: zipped({value.replace("/", "").replace("\\", ""): b""}),
    "a tar that is packed": lambda value: tarred(value.encode()),
} | {
    f"{encode.__name__} after {before}": in_base(encode, before)
    for encode in (base64.b64encode, base64.b32encode, base64.b32hexencode) for before in range(5)
}  # fmt: skip


def zipped(members):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, content)
    return file.getvalue()


def tarred(content):
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w:gz") as archive:
        member = tarfile.TarInfo("a.txt")
        member.size = len(content)
        archive.addfile(member, io.BytesIO(content))
    return file.getvalue()


@pytest.mark.parametrize("way", WRITTEN)
def test_a_file_that_holds_a_secret_is_found_however_it_was_written(way, tmp_path):
    path = tmp_path / "f"
    before = b"" if way.startswith(("zip", "gzip", "b", "xz", "a ")) else b"some words before\n"
    for value in ("7f3a-hunter2", "p<ss&w\"örd/with'slash+42", "sk/live/0123456789"):
        if way == "a name in a zip" and value[0] != "7":
            continue  # a name in an archive holds no slash
        path.write_bytes(before + WRITTEN[way](value))
        assert redactor_of(value).found_in(path) == "key"
        path.write_bytes(WRITTEN[way]("another value, which is no secret"))
        assert redactor_of(value).found_in(path) is None


def test_what_is_packed_is_searched_to_a_limit_and_that_is_said(tmp_path, caplog, monkeypatch):
    path = tmp_path / "bomb.gz"
    path.write_bytes(gzip.compress(b"\0" * 4_000_000 + b"7f3a-hunter2"))
    redactor = Redactor({"key": "7f3a-hunter2"})
    assert redactor.found_in(path) == "key"
    monkeypatch.setattr(redaction.Allowance, "__init__", lambda self: vars(self).update(left=1_000_000, ran_out=False))
    assert redactor.found_in(path) is None
    assert "bomb.gz" in caplog.text and "were searched for secrets" in caplog.text


@pytest.mark.parametrize("content", [b"\x1f\x8bbroken", b"PK\x03\x04broken", b"BZhbroken", b"\xfd7zXZ\0broken", b""])
def test_a_damaged_archive_is_searched_as_it_lies(content, tmp_path):
    path = tmp_path / "f"
    path.write_bytes(content)
    assert Redactor({"key": "7f3a-hunter2"}).found_in(path) is None
    path.write_bytes(content + b" 7f3a-hunter2")
    assert Redactor({"key": "7f3a-hunter2"}).found_in(path) == "key"


def test_files_folders_and_links_that_are_called_as_a_secret_are_removed(project, monkeypatch):
    value = "7f3a-hunter2"
    monkeypatch.setenv("OUR_KEY", value)
    source = (
        "import os; key = lk.secret('key')\n"
        "lk.artifact(f'a-{key}.txt').write_text('1'); lk.artifact(f'{key}/b.txt').write_text('2')\n"
        "lk.artifact('fine.txt').write_text('3'); os.symlink(f'/nowhere/{key}', 'link')\n"
        "os.mkdir(f'empty-{key.encode().hex()}')"
    )
    run = run_notebook(
        Request(write_notebook(project / "notebooks/n.ipynb", [source], "key: 'Secret' = 'env:OUR_KEY'")), project
    )
    assert (run.status, run.error.name) == ("failed", "SecretLeaked")
    assert [artifact.file for artifact in run.artifacts] == ["fine.txt"]
    assert (
        "a-[secret key].txt" in run.error.message and "'link'" in run.error.message and value not in run.error.message
    )
    assert not [
        path for path in run.folder(project).rglob("*") if value in str(path) or value.encode().hex() in str(path)
    ]
    assert not (run.folder(project) / "link").is_symlink()


def test_the_end_of_a_line_that_could_begin_a_secret_is_saved(project, monkeypatch):
    monkeypatch.setenv("OUR_KEY", "7f3a-hunter2")
    path = write_notebook(
        project / "notebooks/n.ipynb",
        ["print('loss 0.37', end='')", "print('cells 7', end='')", "print('7f3a-hunte', end='')", "import time\n"
         "for c in 'a 7f3a-hunter2 is 7': print(c, end='', flush=True); time.sleep(.07)"],
        "api_key: str = 'x'\nkey: 'Secret' = 'env:OUR_KEY'",
    )  # fmt: skip
    run = run_notebook(Request(path), project)
    assert run.status == "succeeded"
    cells = nbformat.read(run.folder(project) / "notebook.ipynb", 4).cells
    printed = [cell.outputs[0].text for cell in cells if cell.cell_type == "code" and cell.outputs]
    assert printed == ["loss 0.37", "cells 7", "7f3a-hunte", "a [secret key] is 7"]


@pytest.mark.parametrize("value", ["2026", "1234", "text", "stdout", "code", "plain", "true", "running", "metadata"])
def test_a_secret_that_is_a_word_of_the_format_leaves_notebook_and_manifest_valid(project, monkeypatch, value):
    monkeypatch.setenv("OUR_KEY", value)
    cells = ["print('a', lk.secret('key'), 'b')", "lk.record('n', 3.25)", "lk.artifact('f').write_bytes(b'x' * 11234)"]
    path = write_notebook(project / "notebooks/n.ipynb", cells, "key: 'Secret' = 'env:OUR_KEY'")
    run = run_notebook(Request(path), project)
    assert run.status == "succeeded", run.error
    notebook = nbformat.read(run.folder(project) / "notebook.ipynb", 4)
    nbformat.validate(notebook)
    assert [c.outputs[0].text for c in notebook.cells if "print" in c.source] == [f"a {marked(value)} b\n"]
    assert run.results["n"].value == 3.25


def marked(value):
    return "[***]" if value in "[secret key]" else "[secret key]"


def test_a_display_that_a_later_cell_changes_is_saved_as_it_is_shown(project):
    cells = ["h = display('first', display_id=True)", "import time; time.sleep(1.2)", "h.update('second')"]
    run = run_notebook(Request(write_notebook(project / "notebooks/n.ipynb", cells)), project)
    shown = nbformat.read(run.folder(project) / "notebook.ipynb", 4).cells[2].outputs
    assert [output.data["text/plain"] for output in shown] == ["'second'"]


def test_the_kernels_log_keeps_characters_whose_bytes_come_in_pieces(project, monkeypatch):
    monkeypatch.setenv("OUR_KEY", "7f3a-hunter2")
    source = "import os, time\nfor b in 'Grüße 漢 7'.encode() + b'\\xff': os.write(1, bytes([b])); time.sleep(.01)"
    path = write_notebook(project / "notebooks/n.ipynb", [source], "key: 'Secret' = 'env:OUR_KEY'")
    run = run_notebook(Request(path), project)
    assert "Grüße 漢 7".encode() + b"\xff" in (run.folder(project) / "kernel.log").read_bytes()
