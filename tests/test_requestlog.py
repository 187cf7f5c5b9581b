"""The request log: bounded, read by a query as any service's is, and safe where the disk is full."""

import contextlib
import sqlite3
import time

import numpy as np
import sqlalchemy
from services import read_requests

from lepton_kit.serving.requestlog import (
    DELETED_AT_ONCE,
    Answered,
    RequestLog,
    declared_rows,
    forget,
)

NAMES, FORECAST = ("mean", "std", "lower", "upper", "prob_up"), np.array([[0.0, 0.01, -0.02, 0.02, 0.5]])


def entry(request_id, ago=0.0, rows=1):
    head = (int((time.time() - ago) * 1000), request_id, "v1", 200, 1.5)
    return Answered(*head, ("return_0",), np.full((rows, 1), 0.01), NAMES, np.repeat(FORECAST, rows, axis=0))


def read(log):
    return read_requests(log.folder, 0, time.time() + 1)


def test_rows_come_back_with_what_came_true_of_them(tmp_path):
    log = RequestLog(tmp_path)
    for number in range(3):
        log.append(entry(f"r-{number}"))
    assert log.add_feedback("r-1", 0, 0.01, 4, "good") == (True, ("v1", dict(zip(NAMES, FORECAST[0], strict=True))))
    assert not log.add_feedback("r-1", 0, 0.02, None, "")[0]  # told again
    assert log.add_feedback("absent", 0, 0.01, None, "") == (False, None)
    log.close()
    held = read(log).set_index("request_id")
    assert list(held.index) == ["r-0", "r-1", "r-2"]
    assert held.loc["r-1", ["actual", "rating", "comment"]].tolist() == [0.02, 4, "good"]
    assert held["feature_return_0"].tolist() == [0.01] * 3 and held["upper"].tolist() == [0.02] * 3
    assert held["actual"].notna().sum() == 1


def test_categories_and_classes_stay_text(tmp_path):
    log = RequestLog(tmp_path)
    features, answers = np.array([["red", 1.5]], object), np.array([["dog", 0.75]], object)
    head = (int(time.time() * 1000), "a", "v1", 200, 1.5)
    log.append(Answered(*head, ("colour", "size"), features, ("label", "proba_dog"), answers))
    log.add_feedback("a", 0, "cat", None, "")
    log.close()
    (row,) = read(log).to_dict("records")
    assert (row["feature_colour"], row["feature_size"], row["label"], row["actual"]) == ("red", 1.5, "dog", "cat")


def test_the_declared_query_gives_a_window_and_an_id_for_each_row_of_a_batch(tmp_path):
    log = RequestLog(tmp_path / "requests")
    log.append(entry("early", ago=100))
    log.append(entry("batch", rows=2))
    log.close()
    place = declared_rows(tmp_path / "requests", tmp_path)
    assert place.sql == "sqlite:///requests/requests.sqlite"
    engine = sqlalchemy.create_engine(f"sqlite:///{tmp_path / 'requests/requests.sqlite'}")
    now = int(time.time() * 1000)
    with engine.connect() as connection:
        window = {"start_ms": now - 10_000, "end_ms": now + 1000}
        found = connection.execute(sqlalchemy.text(place.query), window).mappings().all()
    assert [row["request_id"] for row in found] == ["batch", "batch/1"]


def test_rows_too_old_or_too_many_are_removed_in_parts_the_oldest_first(tmp_path):
    log = RequestLog(tmp_path)
    log.append(entry("ancient", ago=3 * 86400, rows=2 * DELETED_AT_ONCE + 1))
    log.append(entry("new", rows=3))
    log.flush()
    forget(tmp_path, 2 * 1024**3, days=2)
    assert read(log)["request_id"].unique().tolist() == ["new"]
    for number in range(50):
        log.append(entry(f"r-{number}", rows=DELETED_AT_ONCE // 4))
    log.flush()
    with contextlib.closing(sqlite3.connect(tmp_path / "requests.sqlite")) as database:
        pages, size = (database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    forget(tmp_path, pages * size // 2, days=90)
    log.close()
    held = read(log)["request_id"].unique()
    assert 10 < len(held) < 40 and held[-1] == "r-49" and "new" not in held


def test_a_database_that_takes_no_rows_is_told_and_the_log_goes_on(tmp_path):
    """A full disk by its effect; tests/test_full_disk_service.py has a real one."""
    log = RequestLog(tmp_path)
    with contextlib.closing(sqlite3.connect(tmp_path / "requests.sqlite")) as database:
        database.execute("ALTER TABLE requests RENAME TO elsewhere")
        log.append(entry("lost"))
        log.flush()
        assert "no such table" in log.failure
        database.execute("ALTER TABLE elsewhere RENAME TO requests")
    log.append(entry("kept"))
    log.flush()
    assert log.failure is None
    log.close()
    assert list(read(log)["request_id"]) == ["kept"]
