"""Sends the opinion example posts, and later the sentiment that people read in them.

python -m subjects.opinion.feed http://127.0.0.1:8500 --rate 6
"""

from __future__ import annotations

from subjects.feed import main
from subjects.opinion.posts import rows

if __name__ == "__main__":
    main("subjects.opinion.feed", "/sentiment", "sentiment", rows, rate=6)
