"""The exchange calendar that a price table implies: which weekdays are traded, which closures recur, which are gaps.

No calendar of any exchange is asked; everything is inferred from the dates themselves. So a closure that happened once
(a day of mourning, a hurricane) cannot be told from a lost row, and a table of less than two years knows no holidays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import date, timedelta
from functools import partial

import pandas as pd
from dateutil.easter import easter  # type: ignore[import-untyped]  # ships no types

YEARS_AROUND = 2
"""A closure recurs when its like was closed in the two years before and after; holidays come and go over decades."""

LONGEST_CLOSURE = 5
"""More expected days than this in a row without a price are a gap, whatever recurs (11 September 2001 took four)."""

EASTER_REACH = 60
"""Feasts that move with Easter lie within 60 days of it: from Carnival (-47) to Corpus Christi (+60)."""

Pattern = Callable[[int], list[date]]
"""For a shift in years: the days on which the same holiday would be kept that year; any one of them counts."""


def traded_weekdays(dates: pd.Series) -> list[int]:
    """Return the weekdays (Monday is 0) that are traded in more than half of the table's weeks.

    Examples
    --------
    >>> traded_weekdays(pd.Series(pd.bdate_range("2024-01-01", "2024-03-29")))
    [0, 1, 2, 3, 4]
    """
    days = dates.drop_duplicates()
    weeks = (days.max() - days.min()).days / 7
    counts = days.dt.day_of_week.value_counts()
    return sorted(int(weekday) for weekday in counts.index[counts > weeks / 2])


def expected_days(dates: pd.Series) -> pd.DatetimeIndex:
    """Return every day from the first to the last whose weekday is usually traded.

    Examples
    --------
    >>> len(expected_days(pd.Series(pd.bdate_range("2024-01-01", "2024-01-12"))))
    10
    """
    days = pd.date_range(dates.min(), dates.max(), unit="us")
    return days[days.day_of_week.isin(traded_weekdays(dates))]


def closed_days(dates: pd.Series) -> pd.DataFrame:
    """Return the expected days without a price, and whether each closure recurs as a market holiday does.

    A closure recurs when the same calendar date (moved off a weekend or not), the same weekday of the month (third
    Monday, last Monday), or the same distance from Easter was closed in more than half of the years around it.

    Returns
    -------
    DataFrame
        `date`, `recurs` (True: a holiday; False: a gap, or a closure that happened once).

    Examples
    --------
    >>> days = pd.bdate_range("2021-01-01", "2023-12-31")
    >>> kept = days[~((days.month == 7) & (days.day == 4)) & (days != "2022-03-09")]
    >>> closed_days(pd.Series(kept)).astype(str).values.tolist()
    [['2022-03-09', 'False'], ['2022-07-04', 'True'], ['2023-07-04', 'True']]
    """
    expected = expected_days(dates)
    is_closed = pd.Series(~expected.isin(dates), index=expected)
    run_lengths = is_closed.groupby((~is_closed).cumsum()).transform("sum")
    closed = expected[is_closed]
    known = {day.date() for day in closed}
    span = (dates.min().date(), dates.max().date())
    recurs = [run_lengths[day] <= LONGEST_CLOSURE and _recurs(day.date(), known, span) for day in closed]
    return pd.DataFrame({"date": closed, "recurs": pd.Series(recurs, dtype=bool)})


def missing_days(dates: pd.Series) -> pd.DatetimeIndex:
    """Return the expected days that no recurring closure explains.

    Examples
    --------
    >>> days = pd.Series(pd.bdate_range("2024-01-01", "2024-01-31"))
    >>> missing_days(days[days != "2024-01-17"]).strftime("%A %d").tolist()
    ['Wednesday 17']
    """
    closed = closed_days(dates)
    return pd.DatetimeIndex(closed.loc[~closed["recurs"], "date"])


def recurring_closures(dates: pd.Series) -> pd.DatetimeIndex:
    """Return the expected days without a price that recur, as market holidays do.

    Examples
    --------
    >>> days = pd.bdate_range("2021-01-01", "2023-12-31")
    >>> recurring_closures(pd.Series(days[~((days.month == 7) & (days.day == 4))])).year.tolist()
    [2022, 2023]
    """
    closed = closed_days(dates)
    return pd.DatetimeIndex(closed.loc[closed["recurs"], "date"])


def _recurs(day: date, closed: set[date], span: tuple[date, date]) -> bool:
    if not date.min.year + YEARS_AROUND < day.year < date.max.year - YEARS_AROUND:
        return False  # the years around it are beyond the calendar, so nothing can show that it recurs
    return any(_usually_closed(pattern, closed, span) for pattern in _patterns(day))


def _usually_closed(pattern: Pattern, closed: set[date], span: tuple[date, date]) -> bool:
    shifts = [shift for shift in range(-YEARS_AROUND, YEARS_AROUND + 1) if shift != 0]
    others = [days for shift in shifts if (days := pattern(shift)) and span[0] <= days[0] <= span[1]]
    times_closed = sum(any(day in closed for day in days) for days in others)
    return times_closed >= 1 and times_closed + 1 > (len(others) + 1) / 2


def _patterns(day: date) -> Iterator[Pattern]:
    for nominal in _nominal_dates(day):
        yield partial(_observed, nominal)
    yield lambda shift: _same_weekday_of_month(day, shift)
    if day.month != (day + timedelta(days=7)).month:
        yield lambda shift: _last_weekday_of_month(day, shift)
    from_easter = day - easter(day.year)
    if abs(from_easter.days) <= EASTER_REACH:
        yield lambda shift: [easter(day.year + shift) + from_easter]


def _nominal_dates(day: date) -> list[date]:
    """Return the dates whose holiday may be kept on this day: a Monday keeps the weekend's too, a Friday Saturday's."""
    moved = {0: (0, -1, -2), 4: (0, 1)}.get(day.weekday(), (0,))
    return [day + timedelta(days=days) for days in moved]


def _observed(nominal: date, shift: int) -> list[date]:
    try:
        day = nominal.replace(year=nominal.year + shift)
    except ValueError:  # 29 February
        return []
    moved = {5: (0, -1, 2), 6: (0, 1, -2)}.get(day.weekday(), (0,))
    return [day + timedelta(days=days) for days in moved]


def _same_weekday_of_month(day: date, shift: int) -> list[date]:
    first = date(day.year + shift, day.month, 1)
    found = first + timedelta(days=(day.weekday() - first.weekday()) % 7 + 7 * ((day.day - 1) // 7))
    return [found] if found.month == day.month else []


def _last_weekday_of_month(day: date, shift: int) -> list[date]:
    last = date(day.year + shift + day.month // 12, day.month % 12 + 1, 1) - timedelta(days=1)
    return [last - timedelta(days=(last.weekday() - day.weekday()) % 7)]
