"""Finding Quarto. Its old versions cannot be had here, so small programs that tell a version stand in for them."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.reports import quarto


def program(path: Path, script: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return path


@pytest.fixture(autouse=True)
def no_quarto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither on the search path, nor beside Python."""
    monkeypatch.delenv("LEPTON_QUARTO", raising=False)
    monkeypatch.setenv("PATH", f"/usr/bin:/bin:{tmp_path / 'path'}")
    if Path("/usr/bin/quarto").exists() or Path("/bin/quarto").exists():
        pytest.skip("Quarto lies in a system folder, where these tests cannot hide it")
    monkeypatch.setattr(sys, "executable", str(tmp_path / "venv" / "python"))


def test_no_quarto_is_none() -> None:
    assert quarto.find_quarto() is None


def test_quarto_on_the_search_path_is_found(tmp_path: Path) -> None:
    there = program(tmp_path / "path" / "quarto", "echo 1.7.34")
    assert quarto.find_quarto() == quarto.Quarto(there, "1.7.34")


def test_quarto_beside_python_is_found_without_a_search_path(tmp_path: Path) -> None:
    there = program(tmp_path / "venv" / "quarto", "echo 1.10.1")
    assert quarto.find_quarto() == quarto.Quarto(there, "1.10.1")


def test_the_environment_variable_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "path" / "quarto", "echo 1.7.34")
    mine = program(tmp_path / "mine", "echo 1.8.0")
    monkeypatch.setenv("LEPTON_QUARTO", str(mine))
    assert quarto.find_quarto() == quarto.Quarto(mine, "1.8.0")


def test_none_in_the_environment_variable_hides_quarto(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "path" / "quarto", "echo 1.7.34")
    monkeypatch.setenv("LEPTON_QUARTO", "none")
    assert quarto.find_quarto() is None


def test_an_environment_variable_that_names_no_program_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEPTON_QUARTO", "/nowhere/quarto")
    with pytest.raises(InputError, match="LEPTON_QUARTO = '/nowhere/quarto': no such program"):
        quarto.find_quarto()


def test_an_old_quarto_is_an_error_that_tells_its_version_and_place(tmp_path: Path) -> None:
    old = program(tmp_path / "path" / "quarto", "echo 1.6.42")
    with pytest.raises(InputError, match=rf"Quarto 1\.6\.42 at {old}: must be 1\.7 or newer"):
        quarto.find_quarto()


def test_an_old_quarto_on_the_path_gives_way_to_a_new_one_beside_python(tmp_path: Path) -> None:
    program(tmp_path / "path" / "quarto", "echo 1.6.42")
    new = program(tmp_path / "venv" / "quarto", "echo 1.7.0")
    assert quarto.find_quarto() == quarto.Quarto(new, "1.7.0")


def test_a_broken_quarto_is_an_error(tmp_path: Path) -> None:
    program(tmp_path / "path" / "quarto", "exit 3")
    with pytest.raises(InputError, match="does not print its version"):
        quarto.find_quarto()


def test_a_failed_render_tells_the_last_lines_without_colours(tmp_path: Path) -> None:
    failing = program(tmp_path / "quarto", r"printf 'line one\n\033[31mERROR: no such thing\033[39m\n'; exit 1")
    told: list[str] = []
    with pytest.raises(LeptonError, match=r"(?s)Quarto 1\.7\.0 could not render .*exit 1.*line one\nERROR: no such"):
        quarto.render(quarto.Quarto(failing, "1.7.0"), tmp_path, tmp_path / "site", told.append)
    assert told == ["line one", "ERROR: no such thing"]
