"""Bugs of the kind that get into such code: each a small patch of the library that a test must find.

Every one is found by some schedule of the scenario named with it. That keeps the suite from going
blind: a scenario that finds nothing any more, or a patch that does not apply, is a failure.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from scenarios import LARGE, SAMPLED


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
        sampled = {one.__name__ for one in (*SAMPLED, *LARGE)}
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


TAKE_UP = """\
                if (self._fresh or now >= self._acts_at) and self._take_up(worker, now):
                    return worker.call
"""

MUTANTS = [
    mutant(
        "fresh calls come before due retries",
        "(D2)",
        "an_order",
        (
            "_calls/schedule.py",
            "                elif self._retries and self._retries[0][0] <= now:\n",
            "                elif not self.fresh and self._retries and self._retries[0][0] <= now:\n",
        ),
    ),
    mutant(
        "fresh calls come last in, first out",
        "(D1)",
        "an_order",
        (
            "_threads/pool.py",
            "self._fresh.append(call)  # publish",
            "self._fresh.appendleft(call)  # publish",
        ),
        (
            "_threads/pool.py",
            "            self._pass_limit(may_wait=may_wait)\n            self._fresh.append(call)\n",
            "            self._pass_limit(may_wait=may_wait)\n            self._fresh.appendleft(call)\n",
        ),
    ),
    mutant(
        "looking for work and going to rest are two critical sections",
        "not done (G1)",
        "submit_against_the_last_worker_leaving",
        (
            "_threads/workers.py",
            "                crew.rest(worker)  # publish first, then look once more\n" + TAKE_UP,
            "                self._lock.release()\n"
            "                self._lock.acquire()\n"
            "                crew.rest(worker)\n",
        ),
    ),
    mutant(
        "a worker that was idle for long enough leaves without another look",
        "deadlock: main waits for a lock",
        "submit_against_idle_exit",
        (
            "_threads/workers.py",
            "                crew.arrive(worker)\n                now = time.monotonic()\n",
            "                crew.arrive(worker)\n"
            "                if timed_out:\n"
            "                    crew.members.pop(worker, None)\n"
            "                    crew._count()\n"
            "                    self._ledger.take_over(worker)\n"
            "                    return None\n"
            "                now = time.monotonic()\n",
        ),
    ),
    mutant(
        "a worker is counted when it runs, not when it is started",
        "not done (G1)",
        "two_submitters_and_one_worker",
        (
            "_threads/crew.py",
            "            self.members[worker] = None\n            if len",
            "            if len",
        ),
        ("_threads/crew.py", "self.can_summon = self.on_the_way is None and (", "self.can_summon = ("),
        (
            "_threads/workers.py",
            "                if worker not in crew.members:  # of a forked child; or its start was interrupted\n"
            "                    return None\n",
            "                crew.members[worker] = None\n",
        ),
    ),
    mutant(
        "one worker on its way stands in for several calls",
        "deadlock: main waits for the others",
        "a_call_that_waits_for_another",
        (
            "_threads/workers.py",
            "            self._crew.arrive(worker)\n"
            "        if self._crew.can_summon:\n"
            "            self._call_for_help(now)\n",
            "            self._crew.arrive(worker)\n",
        ),
    ),
    mutant(
        "cancel() looks at the state without the lock",
        "",
        "cancel_against_start",
        (
            "_threads/calls.py",
            "                with self._lock:\n                    changed = change(",
            "                if True:\n                    changed = change(",
        ),
    ),
    mutant(
        "whether calls are refused is looked at only before one is queued",
        "not done (G1)",
        "submit_against_shutdown",
        (
            "_threads/pool.py",
            "can_summon or self._refusal is not None:  # then look",
            "can_summon:  # then look",
        ),
        (
            "_threads/pool.py",
            "                return type(self._refusal)(*self._refusal.args)\n",
            "                return None\n",
        ),
    ),
    mutant(
        "submit() looks whether to call somebody before it queues the call",
        "nobody takes up (C4, C5)",
        "submit_against_idle_exit",
        (
            "_threads/pool.py",
            "        is_queued = self._is_open\n",
            "        is_queued, can_summon = self._is_open, self._crew.can_summon\n",
        ),
        (
            "_threads/pool.py",
            "            if self._crew.can_summon or self",
            "            if can_summon or self",
        ),
    ),
    mutant(
        "a worker that leaves takes its counts with it",
        "calls are not counted (G4)",
        "submit_against_the_last_worker_leaving",
        ("_threads/workers.py", "                    self._ledger.take_over(worker)\n", ""),
    ),
    mutant(
        "calls are counted while workers take them and make them done",
        "stats() (G4)",
        "stats_against_a_worker",
        (
            "_threads/pool.py",
            "            return self._at_standstill(lambda _: self._ledger.stats(time.monotonic(), self._crew.members))\n",
            "            return self._ledger.stats(time.monotonic(), self._crew.members)\n",
        ),
    ),
    mutant(
        "a call that is done becomes done again",
        "not counted (G4)",
        "outcome_from_outside_against_finishing",
        (
            "_calls/call.py",
            "        if self._state in DONE_STATES:\n            if unseen",
            "        if False:\n            if unseen",
        ),
    ),
    mutant(
        "a retry is queued twice",
        "(B6)",
        "retry_due_against_shutdown",
        (
            "_calls/schedule.py",
            "            heappush(self._retries, (due_at, self._ticket(), call))\n",
            "            heappush(self._retries, (due_at, self._ticket(), call))\n"
            "            heappush(self._retries, (due_at, self._ticket(), call))\n",
        ),
    ),
    mutant(
        "a sooner retry wakes nobody",
        "late retry (C4)",
        "sooner_retry_against_a_parked_leader",
        (
            "_threads/workers.py",
            "            if self._ledger.back_off(call, due_at):\n                self._crew.wake_leader()\n",
            "            self._ledger.back_off(call, due_at)\n",
        ),
    ),
    mutant(
        "a call wakes nobody who rests",
        "nobody takes up (C4, C5)",
        "submit_against_idle_exit",
        (
            "_threads/workers.py",
            "        if needed and crew.can_summon:\n",
            "        if needed and crew.can_summon and not crew.has_resting:\n",
        ),
    ),
    mutant(
        "a thread that did not start is not taken back",
        "threads=1",
        "a_thread_that_cannot_start",
        (
            "_threads/crew.py",
            "        if not is_alive:\n            self.members.pop(worker, None)\n",
            "        if not is_alive:\n",
        ),
    ),
    mutant(
        "callbacks run under the lock",
        "deadlock",
        "a_done_callback_that_waits_for_another_thread",
        (
            "_threads/workers.py",
            "            call._invoke_callbacks()\n\n    def _take_up",
            "            with self._lock:\n                call._invoke_callbacks()\n\n    def _take_up",
        ),
    ),
    mutant(
        "an observed call becomes done outside its condition",
        "calls are not counted (G4)",
        "outcome_from_outside_against_finishing",
        (
            "_threads/workers.py",
            "        with call._condition:\n            with worker.lock:\n",
            "        if call._condition:\n            with worker.lock:\n",
        ),
    ),
    mutant(
        "a call that is observed meanwhile is finished as if it were not",
        "callback ran 0 times (A3)",
        "callback_against_finishing",
        (
            "_threads/workers.py",
            "                except AttributeError:  # pragma: no cover  # since a moment ago: tests/schedules\n                    return None\n",
            "                except AttributeError:\n                    pass\n",
        ),
    ),
    mutant(
        "shutdown() does not wake who rests",
        "deadlock",
        "shutdown_of_threads_at_rest",
        (
            "_threads/pool.py",
            "            self._room.notify_all()\n            self._crew.wake_all()\n\n    def abandon",
            "            self._room.notify_all()\n\n    def abandon",
        ),
    ),
    mutant(
        "a dropped executor does not wake who rests",
        "deadlock",
        "a_dropped_executor_with_threads_at_rest",
        (
            "_threads/pool.py",
            "        self._abandoned = True\n        self._crew.wake_all()\n",
            "        self._abandoned = True\n",
        ),
    ),
    mutant(
        "nobody tells who waits for room that there is some",
        "deadlock",
        "max_pending_against_a_call_that_finishes",
        (
            "_threads/workers.py",
            "                    self._room.notify_all()  # it may have made a call done\n",
            "                    pass\n",
        ),
    ),
    mutant(
        "shutdown() does not tell who waits for room",
        "deadlock",
        "max_pending_against_shutdown",
        (
            "_threads/pool.py",
            "            self._room.notify_all()\n            self._crew.wake_all()\n\n    def abandon",
            "            self._crew.wake_all()\n\n    def abandon",
        ),
        (
            "_threads/workers.py",
            "                    self._room.notify_all()  # it may have made a call done\n",
            "                    pass\n",
        ),
    ),
    mutant(
        "a cancel() that comes too late is forgotten",
        "an attempt too many",
        "cancel_against_a_failing_attempt",
        (
            "_calls/ledger.py",
            "            call._is_last = True\n",
            "            pass\n",
        ),
    ),
    mutant(
        "who waits for a retry waits for ever",
        "deadlock",
        "retry_due_against_shutdown",
        (
            "_threads/workers.py",
            "                    patience = -1.0 if due_at == math.inf else min(due_at - now, threading.TIMEOUT_MAX)\n",
            "                    patience = -1.0\n",
        ),
    ),
    mutant(
        "a worker leaves calls behind that another thread is about to cancel",
        "(F1)",
        "shutdown_against_cancel_futures",
        (
            "_threads/workers.py",
            "                if self._halted and len(schedule):  # since a moment ago: shutdown() waits for workers only\n"
            "                    continue\n",
            "",
        ),
    ),
    mutant(
        "a failed initializer tells nobody who waits",
        "no end",
        "an_initializer_that_fails",
        ("_threads/workers.py", "            if self._halted:\n                self._clear()\n", ""),
    ),
    mutant(
        "who leaves since its initializer fails does not look once more",
        "not done (G1)",
        "an_initializer_that_fails_later",
        (
            "_threads/workers.py",
            "                    if crew.on_the_way is not None or not len(self._ledger.schedule):\n"
            "                        return False\n",
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
        ("_calls/call.py", "        while callbacks:\n", "        while False:\n"),
    ),
    mutant(
        "an attempt that fails when all is cancelled is put in backoff",
        "although an attempt was running (E2, F2)",
        "cancel_futures_against_a_failing_attempt",
        (
            "_threads/workers.py",
            "            if verdict.delay is not None and not (self._halted or call.done()):  # set",
            "            if verdict.delay is not None:  # set",
        ),
        (
            "_threads/workers.py",
            "            if call._is_last or call.done() or self._halted:\n",
            "            if call._is_last or call.done():\n",
        ),
    ),
    mutant(
        "whether an upstream has room is looked at outside its lock",
        "deadlock",
        "two_executors_and_one_place",
        (
            "_upstream/upstream.py",
            "        if not self._lock.acquire(timeout=_LOCK_TIMEOUT):\n",
            "        now, opens = self._clock.monotonic(), self._gate.open_at()\n"
            "        if not self._lock.acquire(timeout=_LOCK_TIMEOUT):\n",
        ),
        (
            "_upstream/upstream.py",
            "        try:\n            now, opens = self._clock.monotonic(), self._gate.open_at()\n",
            "        try:\n",
        ),
    ),
    mutant(
        "the end of an attempt is told to nobody",
        "deadlock",
        "two_executors_and_one_place",
        (
            "_upstream/upstream.py",
            "        finally:  # whatever a signal handler raises, others wait for that\n            self._tell()\n",
            "        finally:  # whatever a signal handler raises, others wait for that\n            pass\n",
        ),
    ),
    mutant(
        "the end of a hold is told to nobody",
        "deadlock",
        "resume_against_submit",
        (
            "_upstream/upstream.py",
            "                self._gate.release()\n            self._tell()\n",
            "                self._gate.release()\n",
        ),
    ),
    mutant(
        "a place that nobody uses is not passed on",
        "deadlock",
        "a_place_for_a_call_that_is_cancelled",
        ("_threads/workers.py", "        upstream.decline(pool)\n", "        pass\n"),
    ),
    mutant(
        "who was refused is told nothing",
        "deadlock",
        "two_calls_and_one_place",
        (
            "_upstream/upstream.py",
            "            self._waiting[pool] = [opens]\n",
            "",
        ),
    ),
    mutant(
        "an attempt keeps its place when it fails",
        "still counted (U4)",
        "a_probe_that_fails",
        ("_upstream/gate.py", "        if permit.is_over or", '        if evidence != "worked" or'),
    ),
    mutant(
        "a worker does not claim the call that it takes",
        "counts a call twice, or not at all",
        "cancel_against_a_worker_that_takes_the_call",
        ("_threads/workers.py", "                    del call._waits\n", "                    call._waits\n"),
    ),
    mutant(
        "a worker takes a call that somebody else has claimed",
        "ready=-1",
        "cancel_against_a_worker_that_takes_the_call",
        (
            "_threads/workers.py",
            "                    stray = call\n",
            "                    call._worker, call._began_at = worker, now\n",
        ),
    ),
    mutant(
        "who cancels a call does not claim it",
        "ready=-1",
        "cancel_against_a_worker_that_takes_the_call",
        (
            "_calls/ledger.py",
            "            del call._waits\n        except AttributeError:  # it is in",
            "            call._waits\n        except AttributeError:  # it is in",
        ),
    ),
    mutant(
        "a call that is cancelled while a worker takes it stays noted as gone",
        "ready=-1",
        "cancel_against_a_worker_that_takes_the_call",
        (
            "_threads/workers.py",
            "                self._ledger.schedule.drop(stray)\n",
            "                pass\n",
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
            "_threads/calls.py",
            "            with call._condition:\n                with self._lock:\n",
            "            if True:\n                with self._lock:\n",
        ),
        fine=True,
    ),
    mutant(
        "who observes a call does not wait for its worker",
        "deadlock",
        "waiting_against_finishing",
        (
            "_threads/calls.py",
            "                    with worker.lock:\n                        pass\n",
            "                    pass\n",
        ),
    ),
    mutant(
        "who begins to observe a call relies on another who still waits for its worker",
        "deadlock",
        "two_who_observe_against_finishing",
        (
            "_threads/calls.py",
            "            try:\n                if HAS_GIL:\n",
            '            call.__dict__.setdefault("_condition", condition)\n'
            "            try:\n                if HAS_GIL:\n",
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
            "            if self._state in DONE_STATES:\n                return True\n",
            "            if is_done:\n                return True\n",
        ),
    ),
    mutant(
        "a worker looks whether somebody waits for a call before it makes it done",
        "deadlock",
        "resubmit_after_result",
        (
            "_threads/workers.py",
            "                call._state = FINISHED\n",
            "                is_awaited, call._state = call._awaited, FINISHED\n",
        ),
        ("_threads/workers.py", "                if call._awaited:\n", "                if is_awaited:\n"),
    ),
    mutant(
        "who waits for the result is not told that the call was cancelled",
        "deadlock",
        "result_against_cancel",
        (
            "_threads/calls.py",
            "                call._open()\n                call._invoke_callbacks()\n        except BaseException:",
            "                call._invoke_callbacks()\n        except BaseException:",
        ),
    ),
    mutant(
        "whoever queues a call does not see that a worker rests",
        "nobody takes up (C4, C5)",
        "submit_against_idle_exit",
        (
            "_threads/crew.py",
            "        self._resting.append(worker)\n        self.can_summon = self.on_the_way is None\n",
            "        self._resting.append(worker)\n",
        ),
    ),
    mutant(
        "a worker that takes calls does not see that a retry is due",
        "(D2)",
        "an_order",
        (
            "_threads/workers.py",
            "            self._look_ahead()\n            return True\n",
            "            return True\n",
        ),
    ),
    mutant(
        "a worker that takes a call calls nobody for the next one",
        "deadlock",
        "a_thread_that_can_start_later",
        (
            "_threads/workers.py",
            "        if self._crew.can_summon and self._fresh:\n",
            "        if False:\n",
        ),
    ),
    mutant(
        "a worker rests for the sake of calls that others have taken",
        "deadlock",
        "resume_against_a_worker_on_its_way",
        ("_threads/workers.py", "            self._release_leader()\n        if call", "        if call"),
    ),
    mutant(
        "a worker rests for the sake of a call that was cancelled",
        "deadlock",
        "cancel_against_resume",
        ("_threads/calls.py", "        self._release_leader()\n        if self._max", "        if self._max"),
    ),
    mutant(
        "who cancels all calls does not wait for workers that are taking some",
        "(B3, E1, E2, F2)",
        "cancel_futures_against_a_failing_attempt",
        (
            "_threads/workers.py",
            "calls = self._at_standstill(lambda _: self._ledger.schedule.waiting())\n",
            "calls = self._ledger.schedule.waiting()\n",
        ),
    ),
    mutant(
        "drain() does not wait for workers that are taking calls",
        "drain() left a call behind (F3)",
        "drain_against_a_worker_that_takes_the_call",
        (
            "_threads/pool.py",
            "self._at_standstill(lambda _: [*self._running_calls(), *self._ledger.schedule.waiting()])\n",
            "[*self._running_calls(), *self._ledger.schedule.waiting()]\n",
        ),
    ),
    mutant(
        "the queue is tidied while workers take calls",
        "pop from an empty deque",
        "many_cancelled_calls_against_a_worker",
        (
            "_threads/calls.py",
            "            self._at_standstill(tidy)\n",
            "            tidy(True)\n",
        ),
    ),
    mutant(
        "submit() raises although the call was taken up meanwhile",
        "a refused call ran (G1)",
        "submit_against_shutdown_with_a_worker",
        (
            "_threads/pool.py",
            "        if error is not None and self._change(call, self._ledger.refuse):",
            "        if error is not None and (self._change(call, self._ledger.refuse) or True):",
        ),
    ),
    mutant(
        "a refusal that comes too late leaves the call one attempt",
        "it has another attempt (B3)",
        "submit_against_shutdown_with_a_worker",
        (
            "_calls/ledger.py",
            "        return is_queued and self._withdraw(call, counts=0)\n",
            "        call._is_last = not (is_queued and self._withdraw(call, counts=0))\n"
            "        return call.done()\n",
        ),
    ),
    mutant(
        "who is refused does not wait for those who go on without the lock",
        "a first attempt before that of an earlier call (D1)",
        "workers_that_share_a_place",
        (
            "_threads/workers.py",
            "        self._at_standstill(bool)  # from now on all have seen it\n",
            "",
        ),
    ),
    mutant(
        "a worker keeps its place while it runs done callbacks",
        "deadlock",
        "a_done_callback_that_waits_for_a_place",
        (
            "_threads/workers.py",
            "        self._give_place_back(worker)  # the callbacks may take long, or wait for it\n",
            "",
        ),
    ),
    mutant(
        "a slot that was taken for a call that is gone stays taken",
        "a slot was used for nothing",
        "a_slot_for_a_call_that_is_cancelled",
        ("_threads/workers.py", "                upstream.go_on_without(now)\n", "                pass\n"),
    ),
    mutant(
        "a place that was taken for a call that another worker took uses up a slot",
        "a slot was used for nothing",
        "workers_that_share_slots",
        ("_upstream/upstream.py", "            self.go_on_without(permit.began_at)\n", ""),
    ),
    mutant(
        "a worker goes on although its upstream is paused",
        "a paused service is called (U5)",
        "pause_against_a_worker_that_goes_on",
        (
            "_upstream/upstream.py",
            "                self._gate.hold(self._clock.monotonic() + length)\n                self._look()\n",
            "                self._gate.hold(self._clock.monotonic() + length)\n",
        ),
    ),
    mutant(
        "a leader is not told that an upstream opens sooner than it thinks",
        "a call that nobody takes up",
        "a_leader_that_knows_of_a_later_time",
        (
            "_threads/workers.py",
            "            if due_at is not None and due_at < self._leads_until:\n",
            "            if False:\n",
        ),
    ),
    mutant(
        "calls become mixed before all workers have seen that they may take none without the lock",
        "(U4",
        "calls_become_mixed_against_a_worker_that_goes_on",
        (
            "_threads/pool.py",
            "                self._is_mixed = True\n                self._look_ahead()\n",
            "                self._is_mixed = True\n                self._upstream = None\n                self._look_ahead()\n",
        ),
        fine=True,
    ),
    mutant(
        "slots are counted instead of being taken in one step",
        "(U4)",
        "workers_that_share_few_slots",
        (
            "_upstream/gate.py",
            "                self._slots.pop()\n            except",
            "                self._slots = [None] * (len(self._slots) - 1 if self._slots else [].pop())\n            except",
        ),
        fine=True,
    ),
    mutant(
        "who waits for room in an upstream does not look once more",
        "deadlock",
        "room_in_an_upstream_against_cancel",
        (
            "_threads/pool.py",
            "                        upstream.line_up(latch)\n                        continue\n",
            "                        upstream.line_up(latch)\n",
        ),
        fine=True,
    ),
    mutant(
        "a call that is done leaves no room in its upstream",
        "deadlock",
        "room_in_an_upstream_against_cancel",
        (
            "_upstream/upstream.py",
            "            call._leave = partial(self._leave, reference)\n",
            "",
        ),
    ),
    mutant(
        "who tells a listener does not look once more",
        "(G3)",
        "events_against_a_listener_that_falls_asleep",
        ("_observe/monitor.py", "        self._start_telling()  # look once more\n", ""),
    ),
    mutant(
        "whoever has something to tell looks whether somebody tells before it queues that",
        "(G3)",
        "events_against_a_listener_that_falls_asleep",
        (
            "_observe/monitor.py",
            "        self._untold.append(tell)  # publish first,\n        if not self._is_telling:",
            "        is_telling = self._is_telling\n        self._untold.append(tell)\n        if not is_telling:",
        ),
        fine=True,
    ),
    mutant(
        "not now uses up an attempt",
        "(B3)",
        "not_now_and_a_failure",
        ("_calls/attempt.py", "            if is_free or not verdict.counts:\n", "            if is_free:\n"),
    ),
]
