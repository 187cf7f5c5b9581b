"""Sends the recommender example its visitors, and later what they took.

python -m subjects.recommender.feed http://127.0.0.1:8600 --rate 6
python -m subjects.recommender.feed http://127.0.0.1:8600 --holiday 60 240     # seconds from its start
"""

from __future__ import annotations

from subjects.feed import main
from subjects.recommender.shop import holiday_rows, rows

if __name__ == "__main__":
    main("subjects.recommender.feed", "/recommend", "item", rows, rate=6, holiday_rows=holiday_rows)
