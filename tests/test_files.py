import errno
import os
import threading

import pytest

from lepton_kit.errors import InputError
from lepton_kit.files import append_line, locked, read_lines, read_object, sha256_of, write_atomically, write_json


def test_a_write_that_breaks_off_leaves_the_old_content_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    write_atomically(path, "old")

    def full_disk(descriptor):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(InputError, match=r"state\.json.*No space left"):
        write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_sees_the_old_or_the_new_file_and_never_a_half(tmp_path, monkeypatch):
    path = tmp_path / "state.json"
    write_atomically(path, "old")
    seen = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: seen.append(path.read_text()))
    write_atomically(path, "new")
    assert (seen, path.read_text()) == (["old", "new"], "new")  # the file, then the folder that names it


def test_a_file_keeps_its_permissions_and_a_new_one_follows_the_umask(tmp_path):
    path = tmp_path / "secret"
    write_atomically(path, "a")
    path.chmod(0o600)
    write_atomically(path, "b")
    assert path.stat().st_mode & 0o777 == 0o600
    before = os.umask(0o027)
    try:
        write_atomically(tmp_path / "new", "c")
    finally:
        os.umask(before)
    assert (tmp_path / "new").stat().st_mode & 0o777 == 0o640


def test_the_hash_of_a_folder_knows_names_and_contents(tmp_path):
    (tmp_path / "a").write_text("1")
    first = sha256_of(tmp_path)
    (tmp_path / "a").rename(tmp_path / "b")
    second = sha256_of(tmp_path)
    (tmp_path / "b").write_text("2")
    assert len({first, second, sha256_of(tmp_path)}) == 3


def test_text_and_bytes_are_written_as_they_are(tmp_path):
    write_atomically(tmp_path / "a", "é\n")
    write_atomically(tmp_path / "b", b"\x00\r\n")
    assert (tmp_path / "a").read_bytes() + (tmp_path / "b").read_bytes() == "é\n".encode() + b"\x00\r\n"


def test_lines_that_were_appended_are_read_and_a_damaged_one_is_named(tmp_path):
    path = tmp_path / "history.jsonl"
    assert read_lines(path, "a step", lambda found: found["step"]) == []
    append_line(path, {"step": 1})
    append_line(path, {"step": 2})
    assert [one["step"] for one in read_lines(path, "a step", lambda found: found["step"])] == [1, 2]
    for damaged in ("{", "[1]", '{"other": 3}'):
        path.write_text('{"step": 1}\n' + damaged + "\n")
        with pytest.raises(InputError, match=r"history\.jsonl: line 2 .* is not a step; restore the file"):
            read_lines(path, "a step", lambda found: found["step"])


def test_a_file_that_holds_no_object_is_refused_with_what_it_holds(tmp_path):
    path = tmp_path / "card.json"
    write_json(path, {"name": "goog"})
    assert read_object(path) == {"name": "goog"}
    path.write_text("[1]")
    with pytest.raises(InputError, match=r"card\.json: holds a list, not an object"):
        read_object(path)
    with pytest.raises(InputError, match=r"none\.json: not readable as JSON"):
        read_object(tmp_path / "none.json")


def test_of_two_who_lock_a_file_the_second_waits(tmp_path):
    order = []

    def second():
        with locked(tmp_path / "new" / ".lock"):
            order.append("second")

    with locked(tmp_path / "new" / ".lock"):
        waiting = threading.Thread(target=second)
        waiting.start()
        waiting.join(0.2)
        order.append("first")
    waiting.join()
    assert order == ["first", "second"]
