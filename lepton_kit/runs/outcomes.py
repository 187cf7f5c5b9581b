"""How a run can end before its notebook does: time ran out, or its runner died."""

from __future__ import annotations

from lepton_kit.errors import LeptonError


class RunnerDied(LeptonError):  # noqa: N818 - read in manifests, and it is what happened
    """The process that ran a notebook was killed."""


class TimedOut(LeptonError):  # noqa: N818 - as above
    """A run was stopped because it took longer than it was allowed to."""


class CellTimedOut(TimedOut):
    """A cell ran longer than a cell may.

    Parameters
    ----------
    cell
        Number of the code cell, counted from 1.
    seconds
        How long a cell was allowed to run.
    """

    def __init__(self, cell: int, seconds: float) -> None:
        super().__init__(cell, seconds)
        self.cell, self.seconds = cell, seconds

    def __str__(self) -> str:
        return f"cell {self.cell} was stopped: it ran longer than the {self.seconds:g} s that a cell may take"


class RunTimedOut(TimedOut):
    """A run took longer than it may, from the start of its kernel on.

    Parameters
    ----------
    cell
        Number of the code cell that was running, counted from 1; 0 while the kernel was starting.
    seconds
        How long the run was allowed to take.
    """

    def __init__(self, cell: int, seconds: float) -> None:
        super().__init__(cell, seconds)
        self.cell, self.seconds = cell, seconds

    def __str__(self) -> str:
        where = f"in cell {self.cell}" if self.cell else "while its kernel was starting"
        return f"the run was stopped {where}: it took longer than the {self.seconds:g} s that it may take"
