"""The errors that reach a person: each message gives the value, where it came from, and what is allowed."""


class LeptonError(Exception):
    """Something went wrong that a person can understand and act on."""

    exit_code = 1


class InputError(LeptonError):
    """A value, file or folder that was given is not what is needed; nothing was changed."""

    exit_code = 2


class ExpectationFailed(LeptonError):  # noqa: N818 - the name is read in notebooks, and it is what happened
    """A condition that a notebook states about its own output does not hold."""
