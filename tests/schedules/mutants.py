"""Bugs of the kind that get into such code: each a small patch of the library that a test must find.

Every one is found by some schedule of the scenario named with it. That keeps the suite from going
blind: a scenario that finds nothing any more, or a patch that does not apply, is a failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scenarios import LARGE, SAMPLED, VAST


@dataclass(frozen=True)
class Mutant:
    """A patched library.

    Attributes:
        bug: What is wrong with it.
        symptom: What the failure says, in part.
        scenario: The scenario that finds it.
        patches: File, text, and what replaces it.
        fine: Whether that takes switches before every access.
    """

    bug: str
    symptom: str
    scenario: str
    patches: tuple[tuple[str, str, str], ...]
    fine: bool = False

    @property
    def is_repeatable(self) -> bool:
        """Whether the same choices make the same run."""
        return self.scenario not in {one.__name__ for one in SAMPLED}

    @property
    def search(self) -> list[str]:
        """The options of the search that finds it."""
        if self.fine:
            return ["--fine", "--runs", "20000"]
        sampled = {one.__name__ for one in (*SAMPLED, *VAST, *LARGE)}
        return ["--runs", "3000"] if self.scenario in sampled else []

    def apply(self, package: Path) -> None:
        """Patch the copy of the library in *package*."""
        for name, text, replacement in self.patches:
            path = package / name
            source = path.read_text("utf-8")
            assert 1 == source.count(text), f"{self.bug}: the patch of {name} does not apply any more"
            path.write_text(source.replace(text, replacement), "utf-8")


def mutant(
    bug: str, symptom: str, scenario: str, *patches: tuple[str, str, str], fine: bool = False
) -> Mutant:
    """Return a mutant."""
    return Mutant(bug, symptom, scenario, patches, fine)


MUTANTS = [
    mutant(
        "fresh calls come before due retries",
        "(D2)",
        "an_order",
        (
            "_calls/schedule.py",
            "            elif first is not None and first[0] <= now:\n",
            "            elif not self.fresh and first is not None and first[0] <= now:\n",
        ),
    ),
    mutant(
        "fresh calls come last in, first out",
        "(D1)",
        "an_order",
        (
            "_core/core.py",
            "self.fresh.append(call)  # publish",
            "self.fresh.appendleft(call)  # publish",
        ),
        (
            "_core/entrance.py",
            "        self._ledger.schedule.fresh.append(call)\n",
            "        self._ledger.schedule.fresh.appendleft(call)\n",
        ),
    ),
    mutant(
        "looking for work and going to rest are two critical sections",
        "not done (G1)",
        "submit_against_the_last_worker_leaving",
        (
            "_threads/workers.py",
            (
                "                roster.rest(worker)\n"
                "                if (core.fresh or now >= turns.only_fresh_until) and self._take(now):\n"
                "                    return worker.call\n"
            ),
            (
                "                core.lock.release()\n"
                "                core.lock.acquire()\n"
                "                roster.rest(worker)\n"
            ),
        ),
    ),
    mutant(
        "a worker that was idle for long enough leaves without another look",
        "deadlock: main waits for a lock",
        "submit_against_idle_exit",
        (
            "_threads/workers.py",
            ("                roster.arrive(worker)\n                now = time.monotonic()\n"),
            (
                "                roster.arrive(worker)\n"
                "                if timed_out:\n"
                "                    roster.members.pop(worker, None)\n"
                "                    roster._count()\n"
                "                    core.ledger.take_over(worker)\n"
                "                    return None\n"
                "                now = time.monotonic()\n"
            ),
        ),
    ),
    mutant(
        "a worker is counted when it runs, not when it is started",
        "not done (G1)",
        "two_submitters_and_one_worker",
        (
            "_threads/roster.py",
            ("            self.members[worker] = None\n            if len"),
            "            if len",
        ),
        (
            "_threads/roster.py",
            "self.can_summon = self.on_the_way is None and (",
            "self.can_summon = (",
        ),
        (
            "_threads/workers.py",
            (
                "                if worker not in roster.members:  # of a forked child; or its start was interrupted\n"
                "                    return None\n"
            ),
            "                roster.members[worker] = None\n",
        ),
    ),
    mutant(
        "one worker on its way stands in for several calls",
        "deadlock: main waits for the others",
        "a_call_that_waits_for_another",
        (
            "_threads/workers.py",
            (
                "            roster.arrive(worker)\n"
                "        if roster.can_summon:\n"
                "            self._crew.summon(core, now)\n"
                "        return True"
            ),
            ("            roster.arrive(worker)\n        return True"),
        ),
    ),
    mutant(
        "cancel() looks at the state without the lock",
        "",
        "cancel_against_cancel",
        (
            "_core/settling.py",
            ("                    with self._lock:\n                        was_done"),
            ("                    if True:\n                        was_done"),
        ),
    ),
    mutant(
        "whether calls are refused is looked at only before one is queued",
        "not done (G1)",
        "submit_against_shutdown",
        (
            "_core/core.py",
            "can_summon or entrance.refusal is not None:  # then look",
            "can_summon:  # then look",
        ),
        (
            "_threads/threads.py",
            "                        return core.entrance.what_to_raise()\n",
            "                        return None\n",
        ),
    ),
    mutant(
        "submit() looks whether to call somebody before it queues the call",
        "nobody takes up (C4, C5)",
        "submit_against_idle_exit",
        (
            "_core/core.py",
            "        is_queued = entrance.submits_without_lock\n",
            "        is_queued, can_summon = entrance.submits_without_lock, self.roster.can_summon\n",
        ),
        (
            "_core/core.py",
            "            if self.roster.can_summon or entrance",
            "            if can_summon or entrance",
        ),
    ),
    mutant(
        "a worker that leaves takes its counts with it",
        "calls are not counted (G4)",
        "submit_against_the_last_worker_leaving",
        (
            "_threads/workers.py",
            "                    core.ledger.take_over(worker)\n",
            "",
        ),
    ),
    mutant(
        "calls are counted while workers take them and make them done",
        "stats() (G4)",
        "stats_against_a_worker",
        (
            "_core/core.py",
            "            return crew.at_standstill(lambda _: self.ledger.stats(crew.clock.monotonic(), crew.hands()))\n",
            "            return self.ledger.stats(crew.clock.monotonic(), crew.hands())\n",
        ),
    ),
    mutant(
        "a call that is done becomes done again",
        "not counted (G4)",
        "outcome_from_outside_against_finishing",
        (
            "_calls/call.py",
            "        if self._state in DONE_STATES:\n            self._last",
            "        if False:\n            self._last",
        ),
    ),
    mutant(
        "a retry is queued twice",
        "AssertionError",
        "retry_due_against_shutdown",
        (
            "_calls/retries.py",
            "        heappush(self._entries, (due_at, self._ticket(), call))\n",
            (
                "        heappush(self._entries, (due_at, self._ticket(), call))\n"
                "        heappush(self._entries, (due_at, self._ticket(), call))\n"
            ),
        ),
    ),
    mutant(
        "a sooner retry wakes nobody",
        "late retry (C4)",
        "sooner_retry_against_a_parked_leader",
        (
            "_core/settling.py",
            (
                "            self._ledger.back_off(call, due_at)\n"
                "            self._crew.due_at_changed(self._ledger.schedule)\n"
            ),
            "            self._ledger.back_off(call, due_at)\n",
        ),
    ),
    mutant(
        "a call wakes nobody who rests",
        "nobody takes up (C4, C5)",
        "submit_against_idle_exit",
        (
            "_threads/threads.py",
            "        if needed and roster.can_summon:\n",
            "        if needed and roster.can_summon and not roster.has_resting:\n",
        ),
    ),
    mutant(
        "a thread that did not start is not taken back",
        "threads=1",
        "a_thread_that_cannot_start",
        (
            "_threads/roster.py",
            ("        if not is_alive:\n            self.members.pop(worker, None)\n"),
            "        if not is_alive:\n",
        ),
    ),
    mutant(
        "callbacks run under the lock",
        "deadlock",
        "a_done_callback_that_waits_for_another_thread",
        (
            "_core/settling.py",
            ("            call._invoke_callbacks()\n\n    def rescue"),
            ("            with self._lock:\n                call._invoke_callbacks()\n\n    def rescue"),
        ),
    ),
    mutant(
        "an observed call becomes done outside its condition",
        "calls are not counted (G4)",
        "outcome_from_outside_against_finishing",
        (
            "_core/settling.py",
            ("        with call._condition:\n            with hand.lock:\n"),
            ("        if call._condition:\n            with hand.lock:\n"),
        ),
    ),
    mutant(
        "a call that is observed meanwhile is finished as if it were not",
        "callback ran 0 times (A3)",
        "callback_against_finishing",
        (
            "_threads/shortcut.py",
            (
                "            except AttributeError:  # pragma: no cover  # observed after the look above: tests/schedules\n"
                "                return None\n"
            ),
            ("            except AttributeError:\n                pass\n"),
        ),
    ),
    mutant(
        "shutdown() does not wake who rests",
        "deadlock",
        "shutdown_of_threads_at_rest",
        (
            "_core/ending.py",
            ("            self._entrance.close(RuntimeError(reason))\n            self._crew.wake_all()\n"),
            "            self._entrance.close(RuntimeError(reason))\n",
        ),
    ),
    mutant(
        "a dropped executor does not wake who rests",
        "deadlock",
        "a_dropped_executor_with_threads_at_rest",
        (
            "_core/ending.py",
            ("        self.is_abandoned = True\n        self._crew.abandon()\n"),
            "        self.is_abandoned = True\n",
        ),
    ),
    mutant(
        "nobody tells who waits for room that there is some",
        "deadlock",
        "max_pending_against_a_call_that_finishes",
        (
            "_threads/workers.py",
            "                core.entrance.wake_submitters()  # this worker may have made a call done\n",
            "                pass\n",
        ),
        (
            "_core/settling.py",
            "        if self._entrance.max_pending is not None:\n",
            "        if False:\n",
        ),
    ),
    mutant(
        "shutdown() does not tell who waits for room",
        "deadlock",
        "max_pending_against_shutdown",
        (
            "_core/entrance.py",
            ("        self._update()\n        self._open_all()\n"),
            "        self._update()\n",
        ),
        (
            "_threads/workers.py",
            "                core.entrance.wake_submitters()  # this worker may have made a call done\n",
            "                pass\n",
        ),
        (
            "_core/settling.py",
            "        if self._entrance.max_pending is not None:\n",
            "        if False:\n",
        ),
    ),
    mutant(
        "a cancel() that comes too late is forgotten",
        "an attempt too many",
        "cancel_against_a_failing_attempt",
        (
            "_calls/ledger.py",
            "            call._make_last()\n",
            "            pass\n",
        ),
    ),
    mutant(
        "who waits for a retry waits for ever",
        "deadlock",
        "retry_due_against_shutdown",
        (
            "_threads/workers.py",
            "                    if due_at == math.inf:\n",
            "                    if due_at < math.inf:\n",
        ),
    ),
    mutant(
        "a worker leaves calls behind that another thread is about to cancel",
        "(F1)",
        "shutdown_against_cancel_futures",
        (
            "_threads/workers.py",
            (
                "                if turns.is_halted and len(schedule):  # it was halted after the look above: clear once more\n"
                "                    continue\n"
            ),
            "",
        ),
    ),
    mutant(
        "a failed initializer tells nobody who waits",
        "no end",
        "an_initializer_that_fails",
        (
            "_threads/workers.py",
            ("            if core.turns.is_halted:\n                core.ending.clear(core)\n"),
            "",
        ),
    ),
    mutant(
        "who leaves since its initializer fails does not look once more",
        "not done (G1)",
        "an_initializer_that_fails_later",
        (
            "_threads/workers.py",
            (
                "                    if roster.on_the_way is not None or not len(core.ledger.schedule):\n"
                "                        return False\n"
            ),
            "                    return False\n",
        ),
    ),
    mutant(
        "a failed attempt is the last",
        "another attempt (B3)",
        "retry_due_against_idle_exit",
        (
            "_calls/attempt.py",
            "        if terms.policy is None or ",
            "        if True or terms.policy is None or ",
        ),
    ),
    mutant(
        "done callbacks are forgotten",
        "callback ran 0 times (A3)",
        "callback_against_finishing",
        (
            "_calls/call.py",
            "        while callbacks:\n",
            "        while False:\n",
        ),
    ),
    mutant(
        "an attempt that fails when all is cancelled is put in backoff",
        "although an attempt was running (E2, F2)",
        "cancel_futures_against_a_failing_attempt",
        (
            "_core/settling.py",
            "            if verdict.delay is not None and not (self._turns.is_halted or call.done()):  # set",
            "            if verdict.delay is not None:  # set",
        ),
        (
            "_core/settling.py",
            "            if call._is_last or call.done() or self._turns.is_halted:\n",
            "            if call._is_last or call.done():\n",
        ),
    ),
    mutant(
        "whether an upstream has room is looked at outside its lock",
        "more attempts than allowed (U4)",
        "two_executors_and_one_place",
        (
            "_upstream/places.py",
            "        if not self.lock_to_ask():\n",
            ("        began_at = self.take_slots(core, weight)\n        if not self.lock_to_ask():\n"),
        ),
        (
            "_upstream/places.py",
            "        try:\n            began_at = self.take_slots(core, weight)\n            return self",
            "        try:\n            return self",
        ),
    ),
    mutant(
        "the end of an attempt is told to nobody",
        "deadlock",
        "two_executors_and_one_place",
        (
            "_upstream/places.py",
            (
                "        finally:  # whatever a signal handler raises: cores may wait for what has ended\n"
                "            self._tell()\n"
            ),
            (
                "        finally:  # whatever a signal handler raises: cores may wait for what has ended\n"
                "            pass\n"
            ),
        ),
    ),
    mutant(
        "the end of a hold is told to nobody",
        "deadlock",
        "resume_against_submit",
        (
            "_upstream/places.py",
            ("                log.upstream_resumed(self.name)\n            self._tell()\n"),
            "                log.upstream_resumed(self.name)\n",
        ),
    ),
    mutant(
        "a place that nobody uses is not passed on",
        "deadlock",
        "a_place_for_a_call_that_is_cancelled",
        (
            "_core/turns.py",
            "        places.decline(asker)\n",
            "        pass\n",
        ),
    ),
    mutant(
        "who was refused is told nothing",
        "deadlock",
        "two_calls_and_one_place",
        (
            "_upstream/places.py",
            "        self._line()[core] = opens, weight\n        return opens\n",
            "        return opens\n",
        ),
    ),
    mutant(
        "an attempt keeps its place when it fails",
        "still counted (U4)",
        "a_probe_that_fails",
        (
            "_upstream/gate.py",
            "        if permit.is_over or",
            '        if evidence != "worked" or',
        ),
    ),
    mutant(
        "a worker does not claim the call that it takes",
        "(G4)",
        "cancel_against_a_worker_that_takes_the_call",
        (
            "_threads/shortcut.py",
            "                del call._waits\n",
            "                call._waits\n",
        ),
    ),
    mutant(
        "a worker takes a call that somebody else has claimed",
        "ready=-1",
        "cancel_against_a_worker_that_takes_the_call",
        (
            "_threads/shortcut.py",
            "                stray = call\n",
            "                call._worker, call._began_at = worker, now\n",
        ),
    ),
    mutant(
        "who cancels a call does not claim it",
        "ready=-1",
        "cancel_of_an_observed_call_against_a_worker_that_takes_it",
        (
            "_calls/call.py",
            ("            del self._waits\n        except AttributeError:  # it is in a hand"),
            ("            self._waits\n        except AttributeError:  # it is in a hand"),
        ),
    ),
    mutant(
        "a call that is cancelled while a worker takes it stays noted as gone",
        "ready=-1",
        "cancel_against_a_worker_that_takes_the_call",
        (
            "_threads/shortcut.py",
            "            core.ledger.schedule.drop(stray)\n",
            "            pass\n",
        ),
    ),
    mutant(
        "a call that is cancelled while a worker takes it is not counted",
        "stats() (G4)",
        "cancel_against_a_worker_that_takes_the_call",
        (
            "_calls/ledger.py",
            "        waiting = fresh + schedule.count_others()\n",
            "        waiting = fresh - strays + schedule.count_others()\n",
        ),
    ),
    mutant(
        "who cancels a call does not observe it",
        "deadlock",
        "wait_against_cancel",
        (
            "_core/settling.py",
            "            with call._condition:\n                try:\n",
            "            if True:\n                try:\n",
        ),
        fine=True,
    ),
    mutant(
        "who observes a call does not wait for its worker",
        "deadlock",
        "waiting_against_finishing",
        (
            "_calls/call.py",
            ("                    with hand.lock:\n                        pass\n"),
            "                    pass\n",
        ),
    ),
    mutant(
        "who begins to observe a call relies on another who still waits for its worker",
        "deadlock",
        "two_who_observe_against_finishing",
        (
            "_calls/call.py",
            ("            try:\n                if HAS_GIL:\n"),
            (
                '            self.__dict__.setdefault("_condition", condition)\n'
                "            try:\n"
                "                if HAS_GIL:\n"
            ),
        ),
    ),
    mutant(
        "result() looks whether the call is done before it announces that it waits",
        "deadlock",
        "resubmit_after_result",
        (
            "_calls/call.py",
            "            self._awaited = True  # announce",
            "            is_done, self._awaited = self._state in DONE_STATES, True  #",
        ),
        (
            "_calls/call.py",
            ("            if self._state in DONE_STATES:\n                return True\n"),
            ("            if is_done:\n                return True\n"),
        ),
    ),
    mutant(
        "a worker looks whether somebody waits for a call before it makes it done",
        "deadlock",
        "resubmit_after_result",
        (
            "_threads/shortcut.py",
            "            done._state = FINISHED\n",
            "            is_awaited, done._state = done._awaited, FINISHED\n",
        ),
        (
            "_threads/shortcut.py",
            "            if done._awaited:\n",
            "            if is_awaited:\n",
        ),
    ),
    mutant(
        "who waits for the result is not told that the call was cancelled",
        "deadlock",
        "result_against_cancel_of_an_observed_call",
        (
            "_core/settling.py",
            ("            call._open()\n            call._invoke_callbacks()\n\n        kept"),
            ("            call._invoke_callbacks()\n\n        kept"),
        ),
    ),
    mutant(
        "whoever queues a call does not see that a worker rests",
        "nobody takes up (C4, C5)",
        "submit_against_idle_exit",
        (
            "_threads/roster.py",
            ("        self._resting.append(worker)\n        self.can_summon = self.on_the_way is None\n"),
            "        self._resting.append(worker)\n",
        ),
    ),
    mutant(
        "a worker that takes calls does not see that a retry is due",
        "(D2)",
        "an_order",
        (
            "_core/settling.py",
            ("            self._turns.update_only_fresh_until()\n            return True\n"),
            "            return True\n",
        ),
    ),
    mutant(
        "a worker that takes a call calls nobody for the next one",
        "deadlock",
        "a_thread_that_can_start_later",
        (
            "_threads/shortcut.py",
            "    if crew.roster.can_summon and (core.fresh or crew.flights.landed):\n",
            "    if False:\n",
        ),
    ),
    mutant(
        "a worker rests for the sake of calls that others have taken",
        "deadlock",
        "resume_against_a_worker_on_its_way",
        (
            "_threads/workers.py",
            "        roster.due_at_changed(core.ledger.schedule)  # also",
            "        None  # also",
        ),
    ),
    mutant(
        "a worker rests for the sake of a call that was cancelled",
        "deadlock",
        "cancel_against_resume",
        (
            "_core/settling.py",
            "        self._crew.due_at_changed(self._ledger.schedule)\n        self._leave_room()\n",
            "        self._leave_room()\n",
        ),
    ),
    mutant(
        "who cancels all calls does not wait for workers that are taking some",
        "(B3, E1, E2, F2)",
        "cancel_futures_against_a_failing_attempt",
        (
            "_core/ending.py",
            "calls = self._crew.at_standstill(lambda _: self._ledger.schedule.waiting())\n",
            "calls = self._ledger.schedule.waiting()\n",
        ),
    ),
    mutant(
        "drain() does not wait for workers that are taking calls",
        "drain() left a call behind (F3)",
        "drain_against_a_worker_that_takes_the_call",
        (
            "_core/ending.py",
            (
                "            calls = self._crew.at_standstill(\n"
                "                lambda _: [*self._entrance.running_calls(), *self._ledger.schedule.waiting()]\n"
                "            )\n"
            ),
            "            calls = [*self._entrance.running_calls(), *self._ledger.schedule.waiting()]\n",
        ),
    ),
    mutant(
        "the queue is tidied while workers take calls",
        "pop from an empty deque",
        "many_cancelled_calls_against_a_worker",
        (
            "_core/settling.py",
            "            self._crew.at_standstill(compact)\n",
            "            compact(True)\n",
        ),
    ),
    mutant(
        "submit() raises although the call was taken up meanwhile",
        "a refused call ran (G1)",
        "submit_against_shutdown_with_a_worker",
        (
            "_core/core.py",
            "            if error is not None and self.settling.refuse(call):",
            "            if error is not None and (self.settling.refuse(call) or True):",
        ),
    ),
    mutant(
        "a refusal that comes too late leaves the call one attempt",
        "it has another attempt (B3)",
        "submit_against_shutdown_with_a_worker",
        (
            "_calls/ledger.py",
            "        return self.schedule.has_untried(call) and self._withdraw(call, counts=0)\n",
            (
                "        call._is_last = not (self.schedule.has_untried(call) and self._withdraw(call, counts=0))\n"
                "        return call.done()\n"
            ),
        ),
    ),
    mutant(
        "who is refused does not wait for those who go on without the lock",
        "a first attempt before that of an earlier call (D1)",
        "workers_that_share_a_place",
        (
            "_core/turns.py",
            "        self._crew.at_standstill(bool)  # from now on all hands have seen it\n",
            "",
        ),
    ),
    mutant(
        "a worker keeps its place while it runs done callbacks",
        "deadlock",
        "a_done_callback_that_waits_for_a_place",
        (
            "_core/settling.py",
            "        end_permit(hand)  # the callbacks may take long, or wait for it\n",
            "",
        ),
    ),
    mutant(
        "a slot that was taken for a call that is gone stays taken",
        "a slot was used for nothing",
        "a_slot_for_a_call_that_is_cancelled",
        (
            "_threads/shortcut.py",
            "            places.return_slots(now)\n",
            "            pass\n",
        ),
    ),
    mutant(
        "a place that was taken for a call that another worker took uses up a slot",
        "a slot was used for nothing",
        "workers_that_share_slots",
        (
            "_upstream/places.py",
            "            self.return_slots(permit.began_at)\n",
            "",
        ),
    ),
    mutant(
        "a worker goes on although its upstream is paused",
        "a paused service is called (U5)",
        "pause_against_a_worker_that_goes_on",
        (
            "_upstream/places.py",
            (
                "                self.gate.hold(self.clock.monotonic() + length)\n"
                "                self._note_era()  # else a worker that reads it without the lock would go on after pause()\n"
            ),
            "                self.gate.hold(self.clock.monotonic() + length)\n",
        ),
    ),
    mutant(
        "a leader is not told that an upstream opens sooner than it thinks",
        "a call that nobody takes up",
        "a_leader_that_knows_of_a_later_time",
        (
            "_threads/roster.py",
            "due_at is None or due_at < self.leads_until:",
            "due_at is None:",
        ),
    ),
    mutant(
        "calls become mixed before all workers have seen that they may take none without the lock",
        "(U4",
        "calls_become_mixed_against_a_worker_that_goes_on",
        (
            "_core/turns.py",
            ("        self.is_mixed = True\n        self.update_only_fresh_until()\n"),
            (
                "        self.is_mixed = True\n        self.places = None\n        self.update_only_fresh_until()\n"
            ),
        ),
        fine=True,
    ),
    mutant(
        "slots are counted instead of being taken in one step",
        "(U4)",
        "workers_that_share_few_slots",
        (
            "_upstream/gate.py",
            "                rate.free.pop()\n",
            "                rate.free = [None] * (len(rate.free) - 1 if rate.free else [].pop())\n",
        ),
        fine=True,
    ),
    mutant(
        "a slot counts from when the clock was read, before it was taken",
        "more attempts in a window than allowed (U4)",
        "a_worker_that_is_late_for_a_slot",
        (
            "_upstream/gate.py",
            "        now = clock()\n        for rate in rates:\n",
            "        for rate in rates:\n",
        ),
        fine=True,
    ),
    mutant(
        "who waits for room in an upstream does not look once more",
        "deadlock",
        "room_in_an_upstream_against_cancel",
        (
            "_core/entrance.py",
            "            backlog.line_up(self._latch)\n        return True\n",
            "            backlog.line_up(self._latch)\n        return False\n",
        ),
        fine=True,
    ),
    mutant(
        "a call that is done leaves no room in its upstream",
        "deadlock",
        "room_in_an_upstream_against_cancel",
        (
            "_upstream/backlog.py",
            "            call._leave_backlogs += (partial(self._leave, reference),)\n",
            "",
        ),
    ),
    mutant(
        "what one upstream has let through stays taken when another refuses",
        "a slot was used for nothing (U4)",
        "a_call_of_two_upstreams_that_is_cancelled",
        (
            "_upstream/several.py",
            "                    other.gate.return_slots(at)\n",
            "                    pass\n",
        ),
    ),
    mutant(
        "a call of two upstreams keeps one of them when it has ended",
        "deadlock",
        "calls_of_two_upstreams",
        (
            "_upstream/several.py",
            '            part.end(evidence if asked is None else "none", None, exception)\n',
            "            pass\n",
        ),
    ),
    mutant(
        "a call that one upstream refuses is not told of by that one",
        "deadlock",
        "calls_of_two_upstreams",
        (
            "_upstream/several.py",
            "                return places, places.refuse(core, weight)\n",
            "                return places, float('inf')\n",
        ),
    ),
    mutant(
        "an upstream lets one call more through than it has room for, where another has to agree",
        "(U4)",
        "calls_of_two_upstreams",
        (
            "_upstream/several.py",
            "            began_at = places.take_slots(core, weight)\n            if began_at is None:\n",
            "            began_at = places.clock.monotonic()\n            if began_at is None:\n",
        ),
    ),
    mutant(
        "who corrects a weight tells nobody",
        "a call that nobody takes up",
        "a_weight_that_is_corrected",
        (
            "_upstream/places.py",
            "            self.gate.weigh(permit, weight)\n        self._tell()\n",
            "            self.gate.weigh(permit, weight)\n",
        ),
    ),
    mutant(
        "a call that another upstream refuses now waits on at the one that has refused it before",
        "deadlock",
        "a_call_of_two_upstreams_against_calls_of_each",
        (
            "_calls/held.py",
            "            self._hold_up(lane, call, self._barrier(places), opens_at, now)\n            if lane",
            "            self._hold_up(lane, call, lane.barrier, opens_at, now)\n            if lane",
        ),
    ),
    mutant(
        "who tells a listener does not look once more",
        "(G3)",
        "events_against_a_listener_that_falls_asleep",
        (
            "_observe/monitor.py",
            "        self._start_telling()  # look once more\n",
            "",
        ),
    ),
    mutant(
        "whoever has something to tell looks whether somebody tells before it queues that",
        "(G3)",
        "events_against_a_listener_that_falls_asleep",
        (
            "_observe/monitor.py",
            ("        self._untold.append(tell)  # publish first,\n        if not self._is_telling:"),
            (
                "        is_telling = self._is_telling\n"
                "        self._untold.append(tell)\n"
                "        if not is_telling:"
            ),
        ),
        fine=True,
    ),
    mutant(
        "not now uses up an attempt",
        "(B3)",
        "not_now_and_a_failure",
        (
            "_calls/attempt.py",
            "            call._fail(outcome, is_counted=verdict.counts and not is_free)\n",
            "            call._fail(outcome, is_counted=not is_free)\n",
        ),
    ),
    mutant(
        "a call that was to fail for want of a thread is forgotten although it did not",
        "not done (G1)",
        "threads_that_cannot_start_for_two_submitters",
        (
            "_threads/threads.py",
            "                self._on_credit = [call for call in self._on_credit if not call.done()]\n        if interrupt",
            "                self._on_credit = [call for call in self._on_credit if call not in stranded]\n        if interrupt",
        ),
        fine=True,
    ),
    mutant(
        "the loop's thread looks for flights before it publishes that it leaves",
        "deadlock",
        "launch_against_the_loop_thread_leaving",
        (
            "_threads/loop.py",
            (
                "                this, self._thread = self._thread, None\n"
                "                if self._flights.has_starts or self._errands:"
            ),
            (
                "                has_starts = self._flights.has_starts\n"
                "                this, self._thread = self._thread, None\n"
                "                if has_starts:"
            ),
        ),
    ),
    mutant(
        "the loop's thread that stays although it was about to leave relies on being woken",
        "deadlock",
        "launch_against_the_loop_thread_leaving",
        (
            "_threads/loop.py",
            (
                "                    self._thread = this\n"
                "                    loop.call_soon(self._look, context=self._context)\n"
            ),
            "                    self._thread = this\n",
        ),
        fine=True,
    ),
    mutant(
        "a worker looks whether the loop has a thread before it publishes its flight",
        "deadlock",
        "launch_against_the_loop_thread_leaving",
        (
            "_threads/flights.py",
            "        self._starting.append(flight)\n",
            "        thread.see_to_starts(core)\n        self._starting.append(flight)\n",
        ),
        (
            "_threads/flights.py",
            "            flight.is_called_off = True\n        thread.see_to_starts(core)\n",
            "            flight.is_called_off = True\n",
        ),
    ),
    mutant(
        "the loop's thread announces that it will not look any more after it has looked",
        "deadlock",
        "launches_against_a_look",
        (
            "_threads/loop.py",
            "        self._will_look = False  # first: a flight that is added from here on is looked for once more\n",
            "",
        ),
        (
            "_threads/loop.py",
            "            self._take_off(flight)\n",
            "            self._take_off(flight)\n        self._will_look = False\n",
        ),
    ),
    mutant(
        "a flight that is added does not wake the loop",
        "deadlock",
        "launches_against_a_look",
        (
            "_threads/loop.py",
            "            self._will_look = True\n            self.wake()\n",
            "            self._will_look = True\n",
        ),
    ),
    mutant(
        "two threads run one loop",
        "attempts are not counted (B10)",
        "launch_against_the_loop_thread_leaving",
        (
            "_threads/loop.py",
            "            previous.join()  # two threads cannot run one loop\n",
            "            pass\n",
        ),
    ),
    mutant(
        "a worker looks whether a call is done before it makes the flight its hand",
        "deadlock",
        "cancel_against_launch",
        (
            "_threads/flights.py",
            "        with lock, hand.lock:  # at a standstill, the call must",
            "        is_done = call.done()\n        with hand.lock:  # the call must",
        ),
        (
            "_threads/flights.py",
            "        if call.done():\n            flight",
            "        if is_done:\n            flight",
        ),
    ),
    mutant(
        "the loop looks whether a flight was called off before it publishes the task",
        "deadlock",
        "cancel_against_launch",
        (
            "_calls/flight.py",
            "            self.task = task = own",
            "            is_called_off = self.is_called_off\n            self.task = task = own",
        ),
        (
            "_calls/flight.py",
            "        if self.is_called_off:\n            task",
            "        if is_called_off:\n            task",
        ),
    ),
    mutant(
        "who calls a flight off looks for the task before it marks the flight",
        "deadlock",
        "cancel_against_launch",
        (
            "_threads/flights.py",
            "            flight.is_called_off = True\n            self.thread.call_off(flight)\n",
            "            self.thread.call_off(flight)\n            flight.is_called_off = True\n",
        ),
    ),
    mutant(
        "a coroutine is not told that its call was cancelled",
        "deadlock",
        "cancel_of_a_coroutine_that_runs",
        (
            "_core/settling.py",
            "            self._crew.call_off(call)\n",
            "            pass\n",
        ),
    ),
    mutant(
        "the last worker does not look for what has landed",
        "deadlock",
        "a_coroutine",
        (
            "_threads/flights.py",
            "            core.turns.update_only_fresh_until()\n",
            "",
        ),
    ),
    mutant(
        "nobody is summoned for what has landed",
        "deadlock",
        "a_coroutine",
        (
            "_threads/threads.py",
            "                bool(landed)\n                or schedule.is_ready(now)\n",
            "                schedule.is_ready(now)\n",
        ),
    ),
    mutant(
        "the last worker leaves although there are flights",
        "not done (G1)",
        "a_landing_when_no_thread_can_start",
        (
            "_threads/flights.py",
            "        if self.aloft:\n            return True\n",
            "",
        ),
    ),
    mutant(
        "a worker that stays for flights is not told that another has taken up the last one",
        "deadlock",
        "landing_against_the_last_worker_leaving",
        (
            "_threads/flights.py",
            "            stays.wake()\n",
            "            pass\n",
        ),
    ),
    mutant(
        "a place for a coroutine is free only when the one before was taken up",
        "deadlock",
        "one_place_for_two_coroutines",
        (
            "_threads/flights.py",
            (
                "            self._places_left.extend([flight.place for flight in flights])\n"
                "            self._place_is_left.notify(len(flights))\n"
            ),
            "",
        ),
        (
            "_threads/flights.py",
            "        del self.aloft[flight]\n",
            "        del self.aloft[flight]\n        self._places_left.append(flight.place)\n",
        ),
    ),
    mutant(
        "a worker that waits for a place is not told that its call was cancelled",
        "deadlock",
        "cancel_of_a_coroutine_without_a_place",
        (
            "_threads/flights.py",
            "            self._place_is_left.notify_all()  # its worker may be waiting for one\n",
            "            pass\n",
        ),
    ),
    mutant(
        "a call is in flight while it is in the hand of its worker",
        "(G4)",
        "stats_against_landing",
        (
            "_threads/flights.py",
            "        with lock, hand.lock:  # at a standstill, the call must be found either in the hand or in the flight\n"
            "            self.aloft[flight] = None\n",
            "        self.aloft[flight] = None\n        with hand.lock:\n",
        ),
    ),
    mutant(
        "the loop's thread is not told that the executor is gone",
        "deadlock",
        "a_dropped_executor_with_a_coroutine",
        (
            "_threads/threads.py",
            "        self.roster.wake_all()\n        self.flights.look()\n",
            "        self.roster.wake_all()\n",
        ),
    ),
    mutant(
        "when time is up, who cancels coroutines does not wait for workers that are launching some",
        "deadlock",
        "a_coroutine_that_outlives_a_timeout",
        (
            "_core/ending.py",
            "            running = self._crew.at_standstill(lambda _: self._entrance.running_calls())\n",
            "            running = self._entrance.running_calls()\n",
        ),
        fine=True,
    ),
    mutant(
        "the place of an upstream does not go with the coroutine",
        "(U4",
        "coroutines_and_one_place_upstream",
        (
            "_core/settling.py",
            "                if self._crew.launch(hand, work, coroutine):\n                    permit = None\n",
            "                if self._crew.launch(hand, work, coroutine):\n                    pass\n",
        ),
    ),
    mutant(
        "a thread that makes a call inline is not told that an upstream has room",
        "deadlock",
        "an_inline_call_and_one_place",
        (
            "_inline.py",
            "        return self._wake()\n",
            "        return True\n",
        ),
    ),
    mutant(
        "a thread that makes a call inline is not told that an upstream will have room sooner",
        "deadlock",
        "an_inline_call_against_resume",
        (
            "_inline.py",
            "        return self._wake()\n",
            "        return True\n",
        ),
    ),
    mutant(
        "who observes a call does not wait for the thread that is cancelling it unobserved",
        "deadlock",
        "observe_against_cancel",
        (
            "_calls/call.py",
            "                with lock:\n                    pass\n",
            "",
        ),
        fine=True,
    ),
    mutant(
        "a canceller claims an unobserved call without claiming that it is unobserved",
        "deadlock",
        "observe_against_cancel",
        (
            "_calls/call.py",
            "            del self._unobserved  # claim: a thread that observes it from here on waits for the core's lock\n",
            "            self._unobserved\n",
        ),
        fine=True,
    ),
    mutant(
        "who cancels an unobserved call opens no latch",
        "deadlock",
        "result_against_cancel",
        (
            "_core/settling.py",
            "            if changed:\n                self._became_done(call)\n                call._open()\n",
            "            if changed:\n                self._became_done(call)\n",
        ),
    ),
    mutant(
        "who cancels an unobserved call does not claim it",
        "ready=-1",
        "cancel_against_a_worker_that_takes_the_call",
        (
            "_calls/call.py",
            "            del self._waits\n        except AttributeError:  # without",
            "            self._waits\n        except AttributeError:  # without",
        ),
    ),
]
