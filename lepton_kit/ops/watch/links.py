"""Signed links by which a person decides on one repair, once and for a while, without a login."""

from __future__ import annotations

from dataclasses import dataclass

from itsdangerous import BadSignature, SignatureExpired, URLSafeTimedSerializer

from lepton_kit.errors import InputError
from lepton_kit.ops.watch.jobs import Remedy
from lepton_kit.ops.watch.queue import Queue

MOST_CHARACTERS = 500


@dataclass(frozen=True)
class Links:
    """Makes and reads the links; they are signed with `key` and good for `minutes`."""

    key: bytes
    minutes: float

    def path(self, repair: Remedy) -> str:
        """Return the path on this server that asks for a decision on a repair that waits.

        >>> Links(b"key", 60).read(Links(b"key", 60).sign(7, 0))
        (7, 0)
        """
        return f"/decide/{self.sign(repair.job, len(repair.decisions))}"

    def sign(self, job: int, decided: int) -> str:
        """Return what stands for a repair's job after this many decisions on it: the next one makes it void."""
        return str(self._serializer().dumps([job, decided]))

    def read(self, link: str) -> tuple[int, int]:
        """Return the job and the number of decisions that a link was made for.

        Raises InputError when it was not made with this key, or its time is over.
        """
        try:
            job, decided = self._serializer().loads(link[:MOST_CHARACTERS], max_age=round(self.minutes * 60))
        except SignatureExpired as error:
            raise InputError(
                f"the link is older than {self.minutes:g} minutes; decide on the incident's page"
            ) from error
        except BadSignature as error:
            raise InputError("the link is not one of this server, or was cut off") from error
        return int(job), int(decided)

    def repair(self, link: str, queue: Queue) -> Remedy:
        """Return the repair that a link asks about.

        Raises InputError when the link is not good, or the repair does not wait for this decision any more.
        """
        job, decided = self.read(link)
        waits = [one for one in queue.waiting() if one.job == job and len(one.decisions) == decided]
        if not waits:
            raise InputError(f"the link was used already, or repair {job} does not wait for a decision any more")
        return waits[0]

    def _serializer(self) -> URLSafeTimedSerializer:
        return URLSafeTimedSerializer(self.key, salt="decide")
