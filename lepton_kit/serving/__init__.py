"""The reference server, `lepton serve`.

Begin at `app` (one worker's HTTP), `worker` (what it holds), `supervisor` (the process above), `control` (what a
service shall be doing); `replay` drives load at it, `canary` compares two versions.
"""
