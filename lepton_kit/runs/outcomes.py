"""How a run can end before its notebook does: time ran out, or its runner died."""

from __future__ import annotations

from lepton_kit.errors import LeptonError


class RunnerDied(LeptonError):  # noqa: N818 - read in manifests, and it is what happened
    """The process that ran a notebook was killed."""


class TimedOut(LeptonError):  # noqa: N818 - as above
    """A run was stopped because it took longer than it was allowed to."""


class CellTimedOut(TimedOut):
    """A cell ran longer than a cell may."""


class RunTimedOut(TimedOut):
    """A run took longer than it may, from the start of its kernel on."""
