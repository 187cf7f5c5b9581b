"""Sends the support example what customers write, and later the topic that people found.

python -m subjects.support.feed http://127.0.0.1:8400 --rate 6
"""

from __future__ import annotations

from subjects.feed import main
from subjects.support.requests import rows

if __name__ == "__main__":
    main("subjects.support.feed", "/classify", "topic", rows, rate=6)
