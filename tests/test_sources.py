"""A price table is read exactly, or refused with one message that says where and why."""

import json
import os
from functools import partial
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet
import pytest
from helpers import Files, listening

from lepton_kit.data.tables import table_sha256
from lepton_kit.errors import InputError
from subjects.prices.sources import read_prices

BRENT = (
    Path(os.environ.get("LEPTON_DATA", Path(__file__).parents[2] / "shared" / "data")) / "prices" / "brent-daily.csv"
)


@pytest.fixture
def csv(tmp_path):
    def write(text: str) -> str:
        path = tmp_path / "prices.csv"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def refusal(source: str, columns: dict[str, str] | None = None) -> str:
    with pytest.raises(InputError) as caught:
        read_prices(source, columns)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_the_sample_holds_googles_real_prices():
    prices = read_prices("sample:goog")
    assert list(prices.columns) == ["date", "open", "high", "low", "close", "volume", "adj_close"]
    assert (len(prices), str(prices["date"].dtype), prices["close"].iloc[0]) == (1047, "datetime64[us]", 100.34)


def test_a_csv_and_a_parquet_of_one_table_read_as_equal_tables(tmp_path):
    prices = read_prices("sample:goog")
    prices.to_csv(tmp_path / "goog.csv", index=False)
    prices.to_parquet(tmp_path / "goog.parquet", index=False)
    from_csv, from_parquet = read_prices(str(tmp_path / "goog.csv")), read_prices(str(tmp_path / "goog.parquet"))
    pd.testing.assert_frame_equal(from_csv, prices)
    pd.testing.assert_frame_equal(from_parquet, prices)
    assert table_sha256(from_csv) == table_sha256(from_parquet) == table_sha256(prices)


def test_the_hash_of_a_table_changes_with_one_value():
    prices = read_prices("sample:goog")
    changed = prices.copy()
    changed.loc[500, "close"] += 0.01
    assert table_sha256(changed) != table_sha256(prices)


def test_names_that_differ_in_case_and_spaces_are_matched(csv):
    prices = read_prices(csv("Date,Adj Close,CLOSE,Ticker\n2024-01-02,8,9,X\n"))
    assert prices[["close", "adj_close"]].values.tolist() == [[9.0, 8.0]]
    assert "Ticker" not in prices.columns


def test_a_given_mapping_wins_over_a_matching_name(csv):
    assert read_prices(csv("Date,Adj Close,Close\n2024-01-02,8,9\n"), {"Adj Close": "close"})["close"].tolist() == [8.0]


def test_the_brent_prices_are_read_by_mapping_one_column():
    if not BRENT.exists():
        pytest.skip(f"{BRENT} is not there; set LEPTON_DATA to the folder of shared data")
    prices = read_prices(str(BRENT), {"Date": "date", "Price": "close"})
    assert list(prices.columns) == ["date", "close"]
    assert prices["close"].iloc[0] == 18.63


def test_dates_out_of_order_and_empty_prices_are_read_as_they_are(csv):
    prices = read_prices(csv("date,close\n2024-01-03,8\n2024-01-02,\n"))
    assert prices["date"].dt.day.tolist() == [3, 2]
    assert prices["close"].isna().tolist() == [False, True]


@pytest.mark.parametrize(
    "date", ["2024-01-13", "2024/01/13", "20240113", "13.01.2024", "13/01/2024", "01/13/2024", "13 Jan 2024",
             "2024-01-13 00:00:00-05:00", "2024-01-13T00:00:00Z"]
)  # fmt: skip
def test_one_format_of_dates_is_recognised(csv, date):
    assert read_prices(csv(f"date,close\n{date},7\n"))["date"].tolist() == [pd.Timestamp("2024-01-13")]


def test_day_and_month_are_told_apart_by_the_row_that_decides(csv):
    prices = read_prices(csv("date,close\n01/02/2024,7\n13/02/2024,8\n"))
    assert prices["date"].dt.month.tolist() == [2, 2]


def test_days_and_months_that_nothing_tells_apart_are_refused(csv):
    message = refusal(csv("date,close\n02/02/2024,7\n01/02/2024,7\n03/02/2024,8\n"))
    assert "row 2: '01/02/2024' may be day/month/year or month/day/year" in message
    assert "rows in doubt: 2" in message


def test_two_formats_of_dates_are_refused_with_both_named(csv):
    message = refusal(csv("date,close\n2024-01-15,7\n2024-01-12,7\n13/01/2024,8\n"))
    assert "row 3: '13/01/2024' is day/month/year where 2 other rows are year-month-day" in message


@pytest.mark.parametrize("date", ["tomorrow", "45000", "2024-01", "2024-02-30", "2024-01-02 16:00"])
def test_what_is_no_day_is_refused(csv, date):
    assert f"row 2: '{date}' is no date" in refusal(csv(f"date,close\n2024-01-02,7\n{date},7\n"))


def test_an_empty_date_is_refused(csv):
    assert "column date, row 1: value (empty) must not be missing" in refusal(csv("date,close\n,7\n2024-01-02,7\n"))


@pytest.mark.parametrize("price", ["n.v.", '"1,234.5"', "$7", "True", '"18,63"'])
def test_a_price_of_text_is_named_with_its_row(csv, price):
    message = refusal(csv(f"date,close\n2024-01-02,7\n2024-01-03,{price}\n"))
    assert f"column close, row 2: {price.replace(chr(34), '')!r} is not a number" in message


def test_an_infinite_price_is_refused(csv):
    assert "column close, row 1: value inf must be finite" in refusal(csv("date,close\n2024-01-02,inf\n"))


@pytest.mark.parametrize("content", ["", "date,close\n"])
def test_an_empty_csv_is_refused(csv, content):
    assert ("is empty (0 bytes)" if content == "" else "holds no rows") in refusal(csv(content))


def test_a_missing_column_is_named_beside_those_there_are(csv):
    message = refusal(csv("day,price\n2024-01-02,8\n"))
    assert "lacks column date, close; it has day, price; map it with columns" in message


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        ({"Price": "close"}, "columns names 'Price', which"),
        ({"shut": "price"}, "allowed are date, open"),
        ({"shut": "close", "end": "close"}, "maps two columns to one name"),
    ],
)
def test_a_mapping_that_cannot_be_is_refused(csv, columns, said):
    assert said in refusal(csv("date,shut,end\n2024-01-02,8,9\n"), columns)


@pytest.mark.parametrize("text", ["date,close\n2024-01-02,18,63\n", "date,close\n2024-01-02,8\n2024-01-03,8,9\n"])
def test_rows_longer_than_the_header_are_refused(csv, text):
    assert "more cells" in (message := refusal(csv(text))) or "Expected 2 fields in line 3" in message


@pytest.mark.parametrize("separator", [";", "\t", "|"])
def test_the_separator_is_the_one_that_parts_the_header(csv, separator):
    table = separator.join(["Date", "Close"]) + "\n" + separator.join(["2024-01-02", "8.5"])
    assert read_prices(csv(table))["close"].tolist() == [8.5]
    assert read_prices(csv(f"sep={separator}\n{table}"))["close"].tolist() == [8.5]
    message = refusal(csv(table.replace("8.5", "8,5")))
    assert "'8,5' is not a number" in message


def test_rows_longer_than_what_stands_in_the_headers_place_show_it(csv):
    assert "must be the first line and is '# a feed'" in refusal(csv("# a feed\ndate,close\n2024-01-02,8\n"))


@pytest.mark.parametrize(
    "header", ["Date,Close,close", "Date, close ,CLOSE", "Date,DATE,Close", "Date,Adj Close,adj_close,Close"]
)
def test_two_columns_of_one_meaning_are_refused_until_one_is_mapped(csv, header):
    cells = {"DATE": "2024-01-02", "Date": "2024-01-02"}
    row = ",".join(cells.get(name, str(number + 1)) for number, name in enumerate(header.split(",")))
    message = refusal(source := csv(f"{header}\n{row}\n"))
    mapping = json.loads(message[message.index("{") :])
    assert "all mean" in message and read_prices(source, mapping)["close"].notna().all()


def test_two_columns_of_one_name_are_refused(csv, tmp_path):
    assert "has 2 columns named 'Close'" in refusal(csv("Date,Close,Close\n2024-01-02,8,9\n"))
    doubled = pa.table(
        [pa.array([pd.Timestamp("2024-01-02")]), pa.array([8.0]), pa.array([9.0])], ["date"] + ["close"] * 2
    )
    pyarrow.parquet.write_table(doubled, tmp_path / "doubled.parquet")
    assert "has 2 columns named 'close'" in refusal(str(tmp_path / "doubled.parquet"))


@pytest.mark.parametrize("name", ["Ticker", "<TICKER>", "Symbol", "permno", "Name", "station"])
def test_prices_of_several_tickers_are_refused(csv, name):
    labels = ("10107", "14593") if name == "permno" else ("AAA", "BBB")
    rows = [f"2024-01-0{day},{label},{day}" for day in (2, 3) for label in labels]
    message = refusal(csv("\n".join([f"date,{name},close", *rows])))
    assert f"column {name} tells 2 price series apart ({', '.join(labels)})" in message
    assert f"such as {name} = {labels[0]}" in message


def test_prices_of_several_tickers_are_refused_where_their_dates_differ_and_in_a_parquets_index(csv, tmp_path):
    assert "tells 2 price series apart" in refusal(csv("date,ticker,close\n2024-01-02,A,8\n2024-01-03,B,90\n"))
    index = pd.MultiIndex.from_product([pd.to_datetime(["2024-01-02", "2024-01-03"]), ["A", "B"]], names=["date", "id"])
    pd.DataFrame({"close": [1.0, 50.0, 2.0, 51.0]}, index=index).to_parquet(tmp_path / "panel.parquet")
    assert "column id tells 2 price series apart" in refusal(str(tmp_path / "panel.parquet"))


def test_series_that_no_column_tells_apart_are_refused(csv):
    rows = "\n".join(f"2024-01-0{day},{price}" for day in range(2, 9) for price in (day, 100 + day))
    assert "most dates come more than once with other prices (row 1: 2024-01-02)" in refusal(csv(f"date,close\n{rows}"))


def test_a_few_corrections_and_repeated_rows_are_one_series(csv):
    days = "".join(f"2024-01-{day:02},X,{day},{10 + day}\n" for day in range(2, 12))
    prices = read_prices(csv(f"date,ticker,close,trades\n{days}2024-01-05,X,5.5,3\n{days}"))
    assert len(prices) == 21
    assert len(read_prices(csv(f"date,close,trades\n2024-01-01,7,\n{days.replace('X,', '')}2024-01-05,5.5,3\n"))) == 12


def test_an_empty_a_cut_and_a_foreign_file_are_refused(tmp_path):
    empty, cut, picture = tmp_path / "empty.parquet", tmp_path / "cut.parquet", tmp_path / "picture.png"
    empty.touch()
    read_prices("sample:goog").to_parquet(cut)
    cut.write_bytes(cut.read_bytes()[:5000])
    picture.write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    assert "is empty (0 bytes)" in refusal(str(empty))
    assert "begins as a Parquet file and is broken" in refusal(str(cut))
    assert "is neither Parquet nor text" in refusal(str(picture))


@pytest.mark.parametrize(
    ("start", "said"),
    [
        (b"\x1f\x8b\x08\0", "unpack it"),
        (b"PK\x03\x04\0", "export its table as CSV"),
        ("Date".encode("utf-16"), "save it as UTF-8"),
    ],
)
def test_a_file_of_another_kind_is_refused_with_what_to_do(tmp_path, start, said):
    (tmp_path / "prices.csv").write_bytes(start + bytes(40))
    assert said in refusal(str(tmp_path / "prices.csv"))


def test_text_in_a_parquet_column_is_never_turned_into_numbers(tmp_path):
    path = tmp_path / "text.parquet"
    pd.DataFrame({"date": pd.to_datetime(["2024-01-02"]), "close": ["7.0"]}).to_parquet(path)
    assert "column close, row 1: value '7.0' must be a number" in refusal(str(path))


def test_a_parquet_index_with_a_time_zone_gives_local_days(tmp_path):
    path = tmp_path / "index.parquet"
    index = pd.DatetimeIndex(["2024-01-02"], name="Date").tz_localize("America/New_York")
    pd.DataFrame({"Close": [7]}, index=index).to_parquet(path)
    assert read_prices(str(path))["date"].tolist() == [pd.Timestamp("2024-01-02")]


def test_what_is_not_there_is_refused(tmp_path):
    assert "No such file" in refusal(str(tmp_path / "none.csv"))
    assert "there is sample:goog" in refusal("sample:apple")
    assert "cannot be downloaded" in refusal("http://127.0.0.1:9/prices.csv")
    assert "cannot be downloaded" in refusal("http://no such host/prices.csv")


def test_a_url_is_read_as_a_file_is(tmp_path):
    read_prices("sample:goog").to_csv(tmp_path / "goog.csv", index=False)
    with listening(partial(Files, directory=str(tmp_path))) as address:
        prices = read_prices(f"{address}/goog.csv")
        missing = refusal(f"{address}/none.csv")
    pd.testing.assert_frame_equal(prices, read_prices("sample:goog"))
    assert "HTTP status 404" in missing
