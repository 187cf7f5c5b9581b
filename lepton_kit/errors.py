"""The errors that reach a person: each message gives the value, where it came from, and what is allowed."""


class LeptonError(Exception):
    """Something went wrong that a person can understand and act on."""

    exit_code = 1


class InputError(LeptonError):
    """A value, file or folder that was given is not what is needed; nothing was changed."""

    exit_code = 2


class ExpectationFailed(LeptonError):  # noqa: N818 - the name is read in notebooks, and it is what happened
    """A condition that a notebook states about its own output does not hold."""


class RunnerDied(LeptonError):  # noqa: N818 - as above
    """The process that ran a notebook was killed."""


class WorkerLost(LeptonError):  # noqa: N818 - as above
    """The worker of a cluster that ran a notebook was killed, or can no longer be reached."""


class TimedOut(LeptonError):  # noqa: N818 - as above
    """A run was stopped because it took longer than it was allowed to."""


class CellTimedOut(TimedOut):
    """A cell ran longer than a cell may."""


class RunTimedOut(TimedOut):
    """A run took longer than it may, from the start of its kernel on."""
