"""`lepton watch`.

`app` takes alerts in, `queue` and `jobs` keep them across crashes, `worker` runs what they start, `observer` looks at
services, `policy` and `approvals` decide on repairs, `status` and `page` show it all.
"""

__all__ = ["app", "approvals", "jobs", "observer", "page", "policy", "queue", "schedules", "status", "worker"]
