"""The reference server, `lepton serve`.

Begin at `app` (one worker's HTTP), `worker` (what it holds), `supervisor` (the process above), `control` (its
desired state); `replay` drives load at it, `canary` compares two versions.
"""

__all__ = ["app", "canary", "control", "metrics", "replay", "requestlog", "requests", "supervisor", "worker"]
