"""The `lepton` command's first milliseconds: hand the work to a process that has all imports, where there is one.

The standard library alone, and little of it.
"""

from __future__ import annotations

import os
import signal
import sys

FORKED = {"run", "pipeline", "resume", "verify", "diff", "list", "params", "runs", "show"}


def main() -> None:
    """Run the command line, in a process forked from the fork server if that is safe, else in this one."""
    if signal.getsignal(signal.SIGINT) == signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # nothing has begun: Ctrl-C just ends this, without a traceback
    if len(sys.argv) > 1 and sys.argv[1] in FORKED and (status := forked()) is not None:
        sys.exit(status)
    from lepton_kit.cli import main as main_of_this_process

    main_of_this_process()


def forked() -> int | None:
    """Return the exit status of the command in a forked process, or None where there was no server to fork it."""
    from lepton_kit.runs.warm.lease import is_safe_here, lease_from_server

    if is_safe_here(os.environ) is not None:
        return None
    here = {"kind": "command", "argv": sys.argv, "env": dict(os.environ), "cwd": os.getcwd()}  # noqa: PTH109
    lease = lease_from_server(here, [0, 1, 2])
    if isinstance(lease, str):
        return None
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda received, _: lease.send(signal=received))
    status = lease.wait()
    return 128 - status if status is not None and status < 0 else status
