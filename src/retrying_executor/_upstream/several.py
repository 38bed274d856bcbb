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
        parts: One permit of each upstream, that of the narrowest last.
    """

    __slots__ = ("_parts", "places")

    era = -1  # no gate has that: a worker keeps no joint permit for its next call

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

        A service that asks to wait does not say which of the upstreams it means. So only the narrowest is
        held, calls of the others go on, and the attempt tells nothing of those. If the service meant all of
        them, it soon says so to each narrow one.
        """
        *others, narrowest = self._parts
        for part in others:
            part.end(evidence if asked is None else "none", None, exception)
        narrowest.end(evidence, asked, exception)

    def take_back(self) -> None:
        """The attempt will not be made. Doing so again changes nothing."""
        for part in self._parts:
            part.take_back()

    def weigh(self, weight: float) -> None:
        """Count *weight* from now on, not what the attempt was let through with."""
        for part in self._parts:
            part.weigh(weight)

    def sits_out_until(self) -> float:
        """Return until when a call whose probe failed leaves the next to others: until all holds are over."""
        return max(part.sits_out_until() for part in self._parts)


def ask_all(
    upstreams: tuple[Places, ...], core: Asker, weight: float
) -> Permit | JointPermit | tuple[Places, float | None]:
    """Let an attempt through if all of the *upstreams* do. Otherwise it takes a permit of none.

    So no call keeps the permit of one upstream while it waits for another. Called under the core's lock.

    Returns:
        A permit; or the upstream that refuses, and what its `Places.ask` says. Those after it were not asked:
        if one of them has invited the core, that invitation stays open.
    """
    if len(upstreams) == 1:
        answer = upstreams[0].ask(core, weight)
        return answer if isinstance(answer, Permit) else (upstreams[0], answer)
    locked: list[Places] = []
    taken: list[tuple[Places, float]] = []
    try:
        for places in sorted(upstreams, key=id):  # in one order: else two cores could wait for each other
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
