"""One attempt, several upstreams: all of them let it through, or none."""

from __future__ import annotations

from retrying_executor._upstream.gate import Permit

TYPE_CHECKING = False
if TYPE_CHECKING:
    from retrying_executor._policy.verdict import Asked
    from retrying_executor._upstream.gate import Evidence
    from retrying_executor._upstream.places import Asker, Places


class JointPermit:
    """The permits of several upstreams for one attempt, which let it through together.

    Args:
        parts: One of each, that of the narrowest last.
    """

    __slots__ = ("_parts", "places")

    era = -1  # of no gate: no other attempt goes on under it

    def __init__(self, parts: tuple[Permit, ...]) -> None:
        self._parts = parts
        self.places = parts[-1].places

    @property
    def is_probe(self) -> bool:
        """Whether the attempt is to show that one of them works again."""
        return any(part.is_probe for part in self._parts)

    def end(
        self,
        evidence: Evidence = "none",
        asked: Asked | None = None,
        exception: BaseException | None = None,
    ) -> None:
        """Take note that the attempt has ended; see `Gate.end`.

        Which of the upstreams a time that was asked for is meant for, nobody knows. It holds the narrowest:
        so the others' calls go on, and of those upstreams it tells nothing; and if it was meant for all of
        them, each narrow one is soon told so.
        """
        *others, narrowest = self._parts
        for part in others:
            part.end(evidence if asked is None else "none", None, exception)
        narrowest.end(evidence, asked, exception)

    def take_back(self) -> None:
        """The attempt will not be made; may be done again."""
        for part in self._parts:
            part.take_back()

    def weigh(self, weight: float) -> None:
        """Count another weight than it was let through with."""
        for part in self._parts:
            part.weigh(weight)

    def sits_out_until(self) -> float:
        """Return until when a call that failed as the probe lets others be it: the end of the last hold."""
        return max(part.sits_out_until() for part in self._parts)


def ask_all(
    upstreams: tuple[Places, ...], core: Asker, weight: float
) -> Permit | JointPermit | tuple[Places, float | None]:
    """Let an attempt through that all of these have to let through: all of them, or none.

    So nobody keeps the permit of one while it waits for another. Called under the core's lock.

    Returns:
        A permit; or which of them refuses, and what its `Places.ask` says. The others were not asked then,
        and an invitation of theirs stays open.
    """
    if len(upstreams) == 1:
        answer = upstreams[0].ask(core, weight)
        return answer if isinstance(answer, Permit) else (upstreams[0], answer)
    locked: list[Places] = []
    taken: list[tuple[Places, float]] = []
    try:
        for places in sorted(upstreams, key=id):  # in one order, whichever core asks
            if not places.lock_to_ask():
                return places, None
            locked.append(places)
        for places in upstreams:
            began_at = places.take_slots(core, weight)
            if began_at is None:
                for other, at in taken:
                    other.gate.return_slots(at)
                return places, places.refuse(core, weight)
            taken.append((places, began_at))
        return JointPermit(tuple(places.start(core, weight, at) for places, at in taken))
    finally:
        for places in locked:
            places.unlock()
