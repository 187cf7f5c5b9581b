"""Reads a price table from a sample, a file or a URL, and refuses whatever it would have to guess."""

from __future__ import annotations

import csv
import http.client
import io
import json
import re
import urllib.error
import urllib.request
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from lepton_kit.errors import InputError
from subjects.prices.contracts import COLUMNS, REQUIRED, check_raw

SAMPLES = ("sample:goog",)
URL_TIMEOUT_S = 30

DATE_FORMATS = {
    "%Y-%m-%d": "year-month-day",
    "%Y/%m/%d": "year/month/day",
    "%Y%m%d": "yearmonthday",
    "%d.%m.%Y": "day.month.year",
    "%d/%m/%Y": "day/month/year",
    "%m/%d/%Y": "month/day/year",
    "%d-%m-%Y": "day-month-year",
    "%m-%d-%Y": "month-day-year",
    "%d %b %Y": "day Mon year",
    "%d-%b-%Y": "day-Mon-year",
    "%b %d, %Y": "Mon day, year",
    "%d %B %Y": "day Month year",
    "%B %d, %Y": "Month day, year",
}
SAMPLE_ROWS = 100
"""Rows that choose the date formats worth trying on all rows; one is left, or two where day and month look alike."""

SEPARATORS = ",;\t|"
ARCHIVES = {b"\x1f\x8b": "a gzip file; unpack it", b"PK\x03\x04": "a zip or Excel file; export its table as CSV"}

SERIES_NAMES = {
    *("ticker", "symbol", "isin", "cusip", "sedol", "figi", "ric", "permno", "gvkey", "secid", "name"),
    *("instrument", "security", "stock", "asset", "company", "commodity", "currency"),
}
"""Columns that name the traded thing: two values in one of them are two price series in one table."""

MIDNIGHT = re.compile(r"[ T]00:00(:00(\.0+)?)?\s*(Z|[+-]\d\d:?\d\d)?$")


def read_prices(source: str, columns: dict[str, str] | None = None) -> pd.DataFrame:
    """Read a table of daily prices.

    Parameters
    ----------
    source
        `sample:goog` (Google's prices, August 2004 to October 2008, bundled with matplotlib), or the path or http(s)
        URL of a CSV or Parquet file; which of the two it is, its content tells.
    columns
        Names in the table to the kit's names, such as `{"Price": "close"}`. Names that differ only in case, spaces or
        underscores (`Date`, `Adj Close`) are matched by themselves.

    Returns
    -------
    DataFrame
        `date` (datetime64[us]) and `close`; `open`, `high`, `low`, `volume`, `adj_close` where present; numbers are
        float64, rows in the order of the file. Empty cells are NaN. Other columns are left out.

    Raises
    ------
    InputError
        When the source cannot be read, holds no rows, lacks a column or has two for one meaning, holds the prices of
        several tickers, or a cell is not what its column must hold: text for a price, a date in another format than
        the rest, dates whose day and month cannot be distinguished.

    Examples
    --------
    >>> read_prices("sample:goog").iloc[0].astype(str).to_dict()["close"]
    '100.34'
    """
    if source.startswith("sample:"):
        return check_raw(_normalised(_sample(source), source), f"source {source}")
    content = _content(source)
    is_parquet = content.startswith(b"PAR1")
    table = _from_parquet(content, source) if is_parquet else _from_csv(content, source)
    used = _columns_used(table, columns or {}, source)
    prices = pd.DataFrame({name: table.iloc[:, position] for name, position in used.items()})
    prices = _normalised(prices if is_parquet else _parsed(prices, source), source)
    check_raw(prices, f"source {source}")
    _refuse_several_series(table, prices["date"], used, source)
    return prices


# --- from a source to a table of cells ----------------------------------------------------------------------------


def _sample(source: str) -> pd.DataFrame:
    if source not in SAMPLES:
        raise InputError(f"source {source!r}: there is no such sample; there is {', '.join(SAMPLES)}")
    with np.load(Path(mpl.get_data_path()) / "sample_data" / "goog.npz") as file:
        prices = file["price_data"]
    return pd.DataFrame({name: prices[name] for name in prices.dtype.names})


def _content(source: str) -> bytes:
    content = _download(source) if source.startswith(("http://", "https://")) else _file(Path(source))
    if not content:
        raise InputError(f"source {source}: is empty (0 bytes); a CSV or Parquet table of prices is needed")
    return content


def _download(url: str) -> bytes:
    try:
        with urllib.request.urlopen(url, timeout=URL_TIMEOUT_S) as response:
            return bytes(response.read())
    except (urllib.error.URLError, http.client.HTTPException, OSError, ValueError) as error:
        reason = f"HTTP status {error.code}" if isinstance(error, urllib.error.HTTPError) else str(error)
        raise InputError(f"source {url}: cannot be downloaded ({reason})") from error


def _file(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise InputError(f"source {path}: cannot be read ({error.strerror})") from error


def _from_parquet(content: bytes, source: str) -> pd.DataFrame:
    try:
        table = pyarrow.parquet.ParquetFile(io.BytesIO(content)).read()
    except (pa.ArrowException, OSError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"source {source}: begins as a Parquet file and is broken ({reason})") from error
    frame: pd.DataFrame = table.to_pandas(ignore_metadata=True, date_as_object=False)
    return frame


def _from_csv(content: bytes, source: str) -> pd.DataFrame:
    """Read every cell as text: what is a number and what a date is decided later, cell by cell."""
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        known = next((kind for start, kind in ARCHIVES.items() if content.startswith(start)), "save it as UTF-8")
        raise InputError(f"source {source}: is neither Parquet nor text in UTF-8 ({known})") from error
    if "\0" in text:
        known = next((kind for start, kind in ARCHIVES.items() if content.startswith(start)), "it holds NUL bytes")
        raise InputError(f"source {source}: is neither CSV nor Parquet ({known})")
    try:
        separator, header, text = _header(text)
        table = pd.read_csv(io.StringIO(text), sep=separator, dtype=str, skipinitialspace=True)
    except (csv.Error, pd.errors.ParserError, pd.errors.EmptyDataError) as error:
        raise InputError(f"source {source}: is not a CSV table ({str(error).strip()})") from error
    if not isinstance(table.index, pd.RangeIndex):
        names = ", ".join(map(repr, header))
        raise InputError(
            f"source {source}: rows have more cells than the header, which must be the first line and is {names}; "
            "decimals are written with a point"
        )
    return table.set_axis(header, axis="columns") if len(header) == table.shape[1] else table


def _header(text: str) -> tuple[str, list[str], str]:
    """Return the separator that parts the first line into most cells, those cells, and the text without Excel's line.

    The cells are those of the file: pandas would call a second `Close` `Close.1`.
    """
    separators = SEPARATORS
    if excel := re.match(r"sep=(.)\r?\n", text):
        separators, text = excel[1], text[excel.end() :]
    headers = {
        separator: next(filter(None, csv.reader(io.StringIO(text), delimiter=separator, skipinitialspace=True)), [])
        for separator in separators
    }
    separator = max(headers, key=lambda separator: len(headers[separator]))
    return separator, headers[separator], text


# --- from the table's names to the kit's --------------------------------------------------------------------------


def _columns_used(table: pd.DataFrame, columns: dict[str, str], source: str) -> dict[str, int]:
    """Return the kit's names, in the kit's order, and at which position of the table each lies."""
    _check_mapping(table, columns, source)
    origin: dict[str, list[int]] = {}
    for position, column in enumerate(table.columns):
        own = re.sub(r"[\s_]+", "_", str(column).strip().lower())
        name = columns.get(column, own if own not in columns.values() and column not in columns else None)
        if name in COLUMNS:
            origin.setdefault(str(name), []).append(position)
    for name, positions in origin.items():
        if len(positions) > 1:
            raise InputError(f"source {source}: {_doubled(table.columns[positions], name)}")
    if missing := [name for name in REQUIRED if name not in origin]:
        raise InputError(
            f"source {source}: lacks column {', '.join(missing)}; it has {_listed(table.columns)}; "
            f"map it with columns, such as {json.dumps({_unnamed(table, origin): missing[0]}, ensure_ascii=False)}"
        )
    return {name: origin[name][0] for name in COLUMNS if name in origin}


def _doubled(rivals: pd.Index, name: str) -> str:
    if rivals.nunique() == 1:
        return f"has {len(rivals)} columns named {rivals[0]!r}; rename or remove all but the right one"
    mapping = json.dumps({str(rivals[0]): name}, ensure_ascii=False)
    return f"{' and '.join(map(repr, rivals))} all mean {name}; map the right one with columns, such as {mapping}"


def _check_mapping(table: pd.DataFrame, columns: dict[str, str], source: str) -> None:
    for column, name in columns.items():
        if column not in table.columns:
            raise InputError(f"columns names {column!r}, which {source} lacks; it has {_listed(table.columns)}")
        if name not in COLUMNS:
            raise InputError(f"columns maps {column!r} to {name!r}; allowed are {', '.join(COLUMNS)}")
    if len(set(columns.values())) < len(columns):
        raise InputError(f"columns = {columns}: maps two columns to one name")


def _unnamed(table: pd.DataFrame, origin: dict[str, list[int]]) -> str:
    """Return the first column that has no meaning yet, as an example of what may be mapped."""
    taken = {position for positions in origin.values() for position in positions}
    return next((str(name) for position, name in enumerate(table.columns) if position not in taken), "its name")


def _refuse_several_series(table: pd.DataFrame, dates: pd.Series, used: dict[str, int], source: str) -> None:
    """Raise where the table holds the prices of several tickers: cleaning would keep one price of each day, of any.

    Columns named as in `SERIES_NAMES` are believed. Others are looked at only where dates come again with other cells:
    text that is different on every row of such a date tells series apart, and so does a number where most dates do so.
    """
    others = table.drop(columns=table.columns[list(used.values())])
    for name, labels in others.items():
        if re.sub(r"\W", "", str(name)).lower() in SERIES_NAMES and labels.nunique() > 1:
            raise InputError(f"source {source}: {_several(str(name), labels)}")
    if not dates.duplicated().any():
        return
    distinct = ~table.duplicated()
    again = distinct & dates.where(distinct).duplicated(keep=False) & dates.notna()
    most = again.sum() > distinct.sum() / 2
    for name, labels in others.items():
        is_text = pd.to_numeric(labels.dropna(), errors="coerce").isna().any()
        if again.any() and (is_text or most) and not pd.DataFrame([dates[again], labels[again]]).T.duplicated().any():
            raise InputError(f"source {source}: {_several(str(name), labels)}")
    if most:
        row = int(again.to_numpy().argmax())
        raise InputError(
            f"source {source}: most dates come more than once with other prices (row {row + 1}: "
            f"{dates.iloc[row]:%Y-%m-%d}); a price table holds one row a day of one series"
        )


def _several(name: str, labels: pd.Series) -> str:
    values = labels.dropna().unique()
    listed = ", ".join(map(str, values[:3])) + (", …" if len(values) > 3 else "")
    return (
        f"column {name} tells {len(values)} price series apart ({listed}); a price table holds one: "
        f"keep the rows of one, such as {name} = {values[0]}"
    )


def _listed(names: pd.Index) -> str:
    return ", ".join(" ".join(str(name).split()) for name in names) or "no columns"


# --- from text to dates and numbers -------------------------------------------------------------------------------


def _parsed(table: pd.DataFrame, source: str) -> pd.DataFrame:
    return pd.DataFrame(
        {name: _dates(cells, source) if name == "date" else _numbers(cells, source) for name, cells in table.items()}
    )


def _numbers(cells: pd.Series, source: str) -> pd.Series:
    numbers = pd.to_numeric(cells, errors="coerce")
    if (wrong := cells[numbers.isna() & cells.notna()]).size:
        raise InputError(
            f"source {source}: column {cells.name}, row {wrong.index[0] + 1}: {wrong.iloc[0]!r} is not a number "
            f"(rows like it: {wrong.size}); write 1234.5 without signs, units or thousands marks"
        )
    return numbers


def _dates(cells: pd.Series, source: str) -> pd.Series:
    """Parse dates in the one format that fits all rows; refuse a mixture and what fits two formats."""
    given = cells.dropna().str.strip()
    if given.str.contains(":", regex=False).any():
        given = given.str.replace(MIDNIGHT, "", regex=True)
    likely = [form for form in DATE_FORMATS if _read_as(form, given.head(SAMPLE_ROWS)).notna().all()]
    readings = {form: _read_as(form, given) for form in likely}
    whole = [form for form, days in readings.items() if days.notna().all()]
    if not whole:
        every = {form: _read_as(form, given) for form in DATE_FORMATS}
        raise InputError(f"source {source}: column date, {_mixture(given, every)}")
    for form in whole[1:]:
        differing = readings[form] != readings[whole[0]]
        if differing.any():
            raise InputError(f"source {source}: column date, {_ambiguity(given, differing, whole[0], form)}")
    return readings[whole[0]].reindex(cells.index)


def _read_as(form: str, given: pd.Series) -> pd.Series:
    return pd.to_datetime(given, format=form, errors="coerce")


def _mixture(given: pd.Series, readings: dict[str, pd.Series]) -> str:
    fits = pd.DataFrame({form: days.notna() for form, days in readings.items()})
    if (unknown := given[~fits.any(axis=1)]).size:
        return f"row {unknown.index[0] + 1}: {unknown.iloc[0]!r} is no date; write year-month-day, such as 2024-01-31"
    usual = str(fits.sum().idxmax())
    other = given[~fits[usual]]
    form = next(form for form in readings if fits.loc[other.index[0], form])
    return (
        f"row {other.index[0] + 1}: {other.iloc[0]!r} is {DATE_FORMATS[form]} where {fits[usual].sum()} other rows are "
        f"{DATE_FORMATS[usual]} (rows that differ: {other.size}); write all dates in one format, best year-month-day"
    )


def _ambiguity(given: pd.Series, differing: pd.Series, one: str, other: str) -> str:
    rows = given[differing]
    return (
        f"row {rows.index[0] + 1}: {rows.iloc[0]!r} may be {DATE_FORMATS[one]} or {DATE_FORMATS[other]}, and no row of "
        f"the table decides (rows in doubt: {rows.size}); write year-month-day"
    )


def _normalised(table: pd.DataFrame, source: str) -> pd.DataFrame:
    """Return the one representation in which equal tables are equal; text is left for the contract to refuse."""
    normalised = table.copy()
    for name in normalised.columns:
        if name == "date":
            normalised[name] = _days(normalised[name], source)
        elif pd.api.types.is_numeric_dtype(normalised[name]) and not pd.api.types.is_bool_dtype(normalised[name]):
            normalised[name] = normalised[name].astype("float64")
    return normalised


def _days(dates: pd.Series, source: str) -> pd.Series:
    if not pd.api.types.is_datetime64_any_dtype(dates):
        return dates
    local: pd.Series = dates.dt.tz_localize(None).dt.as_unit("us")
    if (timed := local[local.notna() & (local != local.dt.normalize())]).size:
        raise InputError(
            f"source {source}: column date, row {timed.index[0] + 1}: {timed.iloc[0]} has a time of day; "
            "the kit reads one row per day"
        )
    return local
