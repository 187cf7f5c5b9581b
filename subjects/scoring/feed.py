"""Sends the scoring example what clinics measure, and later what came true.

python -m subjects.scoring.feed http://127.0.0.1:8200 --rate 6
"""

from __future__ import annotations

from subjects.feed import main
from subjects.scoring.model import rows

if __name__ == "__main__":
    main("subjects.scoring.feed", "/score", "malignant", rows, rate=6)
