"""Programs of two or three threads, each about one race; every schedule of each must keep the contract."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import FIRST_COMPLETED, CancelledError, InvalidStateError, as_completed, wait
from contextlib import suppress
from inspect import iscoroutinefunction
from unittest import mock

from controlled import Run
from trial import DELAY, Scenario, Service, Trial, call_inline, start, starts_that_fail

from retrying_executor import NotNow, report_weight


def submit_against_idle_exit() -> Trial:
    """A worker's time to leave comes when a call is submitted (C2, C5)."""
    trial = Trial(idle_timeout=1)
    assert 1 == trial.submit().result()
    assert 1 == trial.submit().result()
    return trial


def submit_against_the_last_worker_leaving() -> Trial:
    """A worker that leaves at once when it has nothing to do; two calls, a moment apart (C2, C5)."""
    trial = Trial(idle_timeout=0)
    trial.submit()
    trial.submit()
    return trial


def resubmit_after_result() -> Trial:
    """The loop that the naive design hangs in (C5)."""
    trial = Trial(idle_timeout=0)
    for _ in range(2):
        assert 1 == trial.submit().result()
    return trial


def two_submitters_and_one_worker() -> Trial:
    """Two threads submit to an executor that has no thread yet (C1, C5)."""
    trial = Trial(idle_timeout=0)
    start(trial.submit)
    trial.submit()
    return trial


def a_call_that_waits_for_another() -> Trial:
    """One worker on its way does not stand in for two ready calls (C4)."""
    trial = Trial(2, idle_timeout=0)
    done = threading.Event()
    trial.submit(act=done.wait)
    trial.submit(act=done.set)
    return trial


def retry_due_against_shutdown() -> Trial:
    """shutdown() waits for a retry, whenever that becomes due (F1)."""
    trial = Trial(idle_timeout=0)
    future = trial.submit(2)
    trial.shutdown()
    assert 3 == future.result()
    return trial


def retry_due_against_idle_exit() -> Trial:
    """A call is in backoff for as long as a worker without work stays (C2, C5)."""
    trial = Trial(idle_timeout=DELAY)
    trial.submit(1)
    return trial


def sooner_retry_against_a_parked_leader() -> Trial:
    """A retry that is due before the one that the leader waits for starts in time (C3, C4)."""
    trial = Trial(2, idle_timeout=0)
    trial.submit(1)
    trial.submit(1, delay=1.0)
    return trial


def cancel_against_start() -> Trial:
    """A call is cancelled, or it runs, never both (E1, E2)."""
    trial = Trial(idle_timeout=0)
    future = trial.submit()
    if not trial.cancel(future):
        assert 1 == future.result()
    return trial


def cancel_in_backoff_against_due() -> Trial:
    """cancel() when the delay ends: the call is cancelled, or it has its second attempt (E1, E2)."""
    trial = Trial(idle_timeout=0)
    future = trial.submit(1)
    time.sleep(DELAY)
    trial.cancel(future)
    return trial


def cancel_against_a_failing_attempt() -> Trial:
    """cancel() while an attempt runs that fails: it is the last (E2)."""
    trial = Trial(idle_timeout=0)
    trial.cancel(trial.submit(2))
    return trial


def cancel_against_cancel() -> Trial:
    """Whoever cancels a call that waits is told that it is cancelled (E1)."""
    trial = Trial(idle_timeout=0)
    trial.submit(act=lambda: None)
    future = trial.submit(observed=True)
    start(lambda: trial.cancel(future))
    trial.cancel(future)
    return trial


def drain_against_submit() -> Trial:
    """drain() waits for what was accepted before it (F3)."""
    trial = Trial(idle_timeout=0)
    future = trial.submit()
    start(trial.submit)
    assert trial.executor is not None
    assert trial.executor.drain()
    assert future.done()
    return trial


def shutdown_with_a_timeout() -> Trial:
    """Past the timeout what does not run is cancelled (F3)."""
    trial = Trial(idle_timeout=0)
    trial.submit(1)
    trial.submit(act=lambda: time.sleep(2 * DELAY))
    trial.shutdown(timeout=DELAY)
    return trial


def cancel_futures_against_a_failing_attempt() -> Trial:
    """The attempt that runs is the last; its outcome stands (F2)."""
    trial = Trial(idle_timeout=0)
    trial.submit(1, lambda: time.sleep(1))
    trial.submit()
    trial.shutdown(wait=False, cancel_futures=True)
    return trial


def shutdown_against_cancel_futures() -> Trial:
    """Who waits for the outcomes waits for the calls that another thread is about to cancel (F1, F2)."""
    trial = Trial(idle_timeout=0)
    trial.submit(1)
    start(lambda: trial.shutdown(wait=False, cancel_futures=True))
    trial.shutdown()
    return trial


def an_order() -> Trial:
    """With one worker, due retries come first, then fresh calls in their order (D1, D2)."""
    trial = Trial(idle_timeout=0)
    trial.submit(1)
    trial.submit(act=lambda: time.sleep(2 * DELAY))
    trial.submit()
    return trial


def submit_against_shutdown() -> Trial:
    """A call is accepted and done, or refused and never run (F4, G1)."""
    trial = Trial(idle_timeout=1)
    start(trial.try_submit)
    trial.shutdown()
    return trial


def a_dropped_executor_with_a_call_in_backoff() -> Trial:
    """It finishes its calls, then its threads go, without waiting to be idle (F5)."""
    trial = Trial(idle_timeout=None)
    trial.submit(1)
    trial.executor = None
    return trial


def a_done_callback_that_submits() -> Trial:
    """The worker that runs it is busy, and takes up what it submitted (C5, F7)."""
    trial = Trial(idle_timeout=0)
    trial.try_submit(observed=True, then=trial.submit)
    return trial


def a_thread_that_cannot_start() -> Trial:
    """Whoever gets the error, no accepted call is lost and no refused one runs (C7, G1)."""
    trial = Trial(2, is_starved=True, idle_timeout=0)
    with starts_that_fail(1):
        other = start(trial.try_submit)
        trial.try_submit()
        other.join()
    assert len(trial.refused) < 2
    return trial


def threads_that_cannot_start() -> Trial:
    """Every submitter is refused, or its call becomes done, whoever relied on whose thread (C7, G1)."""
    trial = Trial(2, is_starved=True, idle_timeout=0)
    with starts_that_fail(1, 2, 3):
        other = start(trial.try_submit)
        trial.try_submit()
        other.join()
    return trial


def threads_that_cannot_start_for_two_submitters() -> Trial:
    """A call that did not fail with one newborn, since there was another, fails with that (C7, G1)."""
    trial = Trial(2, is_starved=True, idle_timeout=0)
    with starts_that_fail(1, 2, 3):
        other = start(trial.try_submit)
        trial.try_submit()
        trial.try_submit()
        other.join()
    return trial


def a_second_thread_that_cannot_start() -> Trial:
    """Calls that come meanwhile are left to the thread that there is, though it rests or leaves (C5, C7)."""
    trial = Trial(2, is_starved=True, idle_timeout=1)
    with starts_that_fail(2):
        trial.try_submit()
        trial.try_submit()
        trial.try_submit()
    return trial


def shutdown_against_a_thread_that_cannot_start() -> Trial:
    """shutdown() waits until it is known whether there is a thread (C7, F1)."""
    trial = Trial(1, is_starved=True, idle_timeout=0)
    with starts_that_fail(1):
        other = start(trial.try_submit)
        trial.try_submit()
        trial.shutdown()
        other.join()
    return trial


def max_pending_against_a_call_that_finishes() -> Trial:
    """Whoever waits for room gets it (G5)."""
    trial = Trial(idle_timeout=0, max_pending=1, when_full="wait")
    trial.submit()
    trial.submit()
    return trial


def max_pending_against_shutdown() -> Trial:
    """Whoever waits for room when the executor is shut down is refused (F4, G5)."""
    trial = Trial(idle_timeout=None, max_pending=1, when_full="wait")
    trial.submit()
    start(trial.try_submit)
    trial.shutdown()
    return trial


def waiting_against_finishing() -> Trial:
    """wait() and as_completed() see each call once, however far it is (A3)."""
    trial = Trial(idle_timeout=0)
    first, second = [trial.submit()], [trial.submit()]  # in sets of several, order would be by chance
    assert wait(first, return_when=FIRST_COMPLETED).done
    assert second == list(as_completed(second))
    return trial


def callback_against_finishing() -> Trial:
    """A done callback runs once, whether it comes before or after the outcome (A3)."""
    trial = Trial(idle_timeout=0)
    future = trial.submit(observed=True)
    future.result()
    trial.submit(observed=True)
    return trial


def two_who_observe_against_finishing() -> Trial:
    """Two begin to observe a call when its worker makes it done (A3)."""
    trial = Trial(idle_timeout=0)
    future = trial.submit()
    first, second = threading.Event(), threading.Event()
    start(lambda: future.add_done_callback(lambda _: first.set()))
    future.add_done_callback(lambda _: second.set())
    first.wait()
    second.wait()
    return trial


def observe_against_cancel() -> Trial:
    """A callback that is added when the call is cancelled is called, also if a worker takes it (A3, E1)."""
    trial = Trial(idle_timeout=0)
    trial.submit(act=lambda: time.sleep(1))
    future = trial.submit()
    told = threading.Event()
    start(lambda: trial.cancel(future))
    future.add_done_callback(lambda _: told.set())
    told.wait()
    return trial


def initializers_against_submit() -> Trial:
    """A thread that is still in its initializer sees to one call, not to two (C4)."""
    trial = Trial(2, idle_timeout=0, initializer=lambda: None)
    done = threading.Event()
    trial.submit(act=done.wait)
    trial.submit(act=done.set)
    return trial


def an_initializer_that_fails() -> Trial:
    """Whoever waits, and whoever submits meanwhile, learns it (C6, G1)."""
    trial = Trial(is_broken=True, idle_timeout=0, initializer=lambda: 1 / 0)
    trial.try_submit()
    trial.try_submit()
    return trial


def an_initializer_that_fails_later() -> Trial:
    """Whoever waits for it to work again is not forgotten, and threads leave when nobody does (C6, C5)."""
    fails = iter([False, True, True])
    trial = Trial(2, idle_timeout=0, initializer=lambda: next(fails, False) and 1 / 0)
    trial.submit().result()
    trial.cancel(trial.submit())
    trial.submit()
    return trial


def shutdown_of_threads_at_rest() -> Trial:
    """Threads that would stay for ever are told to go (F1)."""
    trial = Trial(2, idle_timeout=None)
    trial.submit()
    trial.submit()
    trial.shutdown()
    return trial


def a_dropped_executor_with_threads_at_rest() -> Trial:
    """Threads that would stay for ever are told to go, without a lock (F5)."""
    trial = Trial(idle_timeout=None)
    trial.submit().result()
    trial.executor = None
    return trial


def a_done_callback_that_waits_for_another_thread() -> Trial:
    """No callback runs under a lock that another thread may need (F7)."""
    trial = Trial(idle_timeout=0)
    trial.try_submit(observed=True, then=lambda: start(trial.pool.stats).join())
    return trial


def outcome_from_outside_against_finishing() -> Trial:
    """set_result() and the attempt: the first wins, the second is told (A3)."""
    trial = Trial(idle_timeout=0)
    future = trial.submit(observed=True)
    trial.calls[0].may_end_early = True
    try:
        future.set_result(1)
    except InvalidStateError:
        assert future.done()
    return trial


def outcome_from_outside_against_a_failing_attempt() -> Trial:
    """set_result() and an attempt after which another would follow: the first wins (A3, B5)."""
    trial = Trial(idle_timeout=0)
    future = trial.submit(1)
    trial.calls[0].may_end_early = trial.calls[0].is_settled = True
    with suppress(InvalidStateError):
        future.set_result(1)
    return trial


def outcome_from_outside_against_cancel() -> Trial:
    """set_result() and cancel() of a call that waits: the first wins (A3, E1)."""
    trial = Trial(idle_timeout=0)
    ready = threading.Event()
    trial.submit(act=ready.wait)
    future = trial.submit(observed=True)
    trial.calls[1].may_end_early = trial.calls[1].is_settled = True
    start(future.cancel)
    with suppress(InvalidStateError):
        future.set_result(1)
    ready.set()
    return trial


def outcomes_from_outside_against_each_other() -> Trial:
    """Two set the outcome of a call: the first wins, the second is told (A3)."""
    trial = Trial(idle_timeout=0)
    future = trial.submit(observed=True)
    trial.calls[0].may_end_early = trial.calls[0].is_settled = True

    def settle() -> None:
        with suppress(InvalidStateError):
            future.set_result(1)

    start(settle)
    settle()
    return trial


def outcome_from_outside_against_who_waits() -> Trial:
    """result() and a done callback see an outcome that is set from outside just then (A3)."""
    trial = Trial(idle_timeout=0)
    future = trial.submit()
    trial.calls[0].may_end_early = trial.calls[0].is_settled = True
    told = threading.Event()
    start(lambda: future.add_done_callback(lambda _: told.set()))
    with suppress(InvalidStateError):
        future.set_result(1)
    assert 1 == future.result()
    told.wait()
    return trial


def callback_against_back_off() -> Trial:
    """Whoever begins to observe a call when it is put in backoff is told when it is done (A3, B5)."""
    trial = Trial(idle_timeout=0)
    future = trial.submit(1)
    told = threading.Event()
    future.add_done_callback(lambda _: told.set())
    told.wait()
    return trial


def two_who_wait_against_finishing() -> Trial:
    """Two wait for the result when the call is made done (A3)."""
    trial = Trial(idle_timeout=0)
    future = trial.submit()
    other = start(future.result)
    assert 1 == future.result()
    other.join()
    return trial


def submit_against_cancel_futures() -> Trial:
    """A call that is about to be refused is cancelled by others (C7, F2)."""
    trial = Trial(idle_timeout=0)
    other = start(trial.try_submit)
    trial.shutdown(cancel_futures=True)
    other.join()
    return trial


def as_completed_against_finishing() -> Trial:
    """as_completed() yields each call once, however far it is (A3)."""
    trial = Trial(idle_timeout=0)
    futures = [trial.submit(observed=True), trial.submit(observed=True)]
    assert set(futures) == set(as_completed(futures))
    assert not wait(futures).not_done
    return trial


def two_calls_and_one_place() -> Trial:
    """The second waits without a worker, and starts when the first has ended (U4)."""
    trial, service = Trial(2, idle_timeout=0), Service(max_concurrency=1)
    trial.submit(act=lambda: time.sleep(1), service=service)
    trial.submit(act=lambda: time.sleep(1), service=service)
    return trial


def retry_at_once_and_one_place() -> Trial:
    """A call that fails is in other hands before its worker has seen to everything (U4)."""
    trial, service = Trial(2, idle_timeout=0), Service(max_concurrency=1)
    trial.submit(1, delay=0.0, service=service)
    trial.submit(act=lambda: time.sleep(1), service=service)
    return trial


def two_executors_and_one_place() -> Trial:
    """When an attempt of one has ended, the other is told (U4)."""
    service = Service(max_concurrency=1)
    trial = Trial(idle_timeout=0)
    other = Trial(idle_timeout=0, beside=trial)
    trial.submit(act=lambda: time.sleep(1), service=service)
    other.submit(act=lambda: time.sleep(1), service=service)
    return trial


def a_place_for_a_call_that_is_cancelled() -> Trial:
    """Who was invited and has no call any more passes the place on (U4, E1)."""
    service = Service(max_concurrency=1)
    trial = Trial(idle_timeout=0)
    other = Trial(idle_timeout=0, beside=trial)
    trial.submit(act=lambda: time.sleep(1), service=service)
    future = other.submit(service=service)
    trial.submit(service=service)
    other.cancel(future)
    return trial


def a_place_for_an_executor_that_is_busy() -> Trial:
    """Who was invited and is busy passes the place on; the service is not idle meanwhile (U4)."""
    service = Service(max_concurrency=1)
    trial = Trial(idle_timeout=0)
    other = Trial(idle_timeout=0, beside=trial)
    trial.submit(act=lambda: time.sleep(1), service=service)
    other.submit(service=service)
    other.submit(act=lambda: time.sleep(DELAY))
    return trial


def an_inline_call_and_one_place() -> Trial:
    """A thread that makes a call inline is woken when an attempt of an executor has ended (U4)."""
    trial, service = Trial(idle_timeout=0), Service(max_concurrency=1)
    trial.submit(act=lambda: time.sleep(1), service=service)
    call_inline(service)
    return trial


def two_inline_calls_and_one_place() -> Trial:
    """The thread that has to wait is woken by the other one (U4)."""
    trial, service = Trial(idle_timeout=0), Service(max_concurrency=1)
    other = start(lambda: call_inline(service))
    call_inline(service)
    other.join()
    return trial


def an_inline_call_against_resume() -> Trial:
    """A thread that waits for somebody to end the hold is told (U5)."""
    trial, service = Trial(idle_timeout=0), Service()
    service.pause()
    start(service.resume)
    call_inline(service)
    return trial


def submit_against_the_end_of_a_hold() -> Trial:
    """Nothing starts while the service is held, and all does afterwards (U5)."""
    trial, service = Trial(idle_timeout=0), Service()
    service.pause(1)
    trial.submit(service=service)
    trial.submit()
    return trial


def resume_against_submit() -> Trial:
    """A call that waits for somebody to end the hold is told (U5)."""
    trial, service = Trial(idle_timeout=0), Service()
    service.pause()
    start(service.resume)
    trial.submit(service=service)
    return trial


def cancel_against_resume() -> Trial:
    """A held call is cancelled, or it runs (E1, U5)."""
    trial, service = Trial(idle_timeout=0), Service()
    service.pause()
    future = trial.submit(service=service)
    start(service.resume)
    trial.cancel(future)
    return trial


def a_probe_that_fails() -> Trial:
    """The service is held after one failure; the other call waits for a probe that gets through (U5)."""
    trial, service = Trial(2, idle_timeout=0), Service(hold_after=1)
    trial.submit(2, service=service, delay=1.0)
    trial.submit(service=service)
    return trial


def shutdown_against_a_hold() -> Trial:
    """shutdown() waits for calls that are held (F1, U5)."""
    trial, service = Trial(idle_timeout=0), Service()
    service.pause(1)
    future = trial.submit(1, service=service)
    trial.shutdown()
    assert 2 == future.result()
    return trial


def cancel_futures_against_a_hold() -> Trial:
    """Held calls are cancelled, and the threads go (F2, U5)."""
    trial, service = Trial(idle_timeout=None), Service()
    service.pause()
    trial.submit(service=service)
    start(service.resume)
    trial.shutdown(cancel_futures=True)
    return trial


def a_dropped_executor_with_a_held_call() -> Trial:
    """It finishes its calls, then its threads go (F5, U5)."""
    trial, service = Trial(idle_timeout=None), Service()
    service.pause()
    trial.submit(service=service)
    trial.executor = None
    service.resume()
    return trial


def stats_against_a_worker() -> Trial:
    """Whoever asks while a worker takes calls and makes them done sees each of them once (G4)."""
    trial = Trial(idle_timeout=0)
    trial.submit()
    trial.submit()
    trial.look()
    trial.look()
    return trial


def cancel_against_a_worker_that_takes_the_call() -> Trial:
    """A worker that takes a call without the lock: it is cancelled, or it runs; counted once (E1, E2, G4)."""
    trial = Trial(idle_timeout=0)
    trial.submit()
    trial.cancel(trial.submit())
    trial.look()
    return trial


def cancel_of_an_observed_call_against_a_worker_that_takes_it() -> Trial:
    """The same, if somebody is to be told (E1, E2, G4)."""
    trial = Trial(idle_timeout=0)
    trial.submit()
    trial.cancel(trial.submit(observed=True))
    trial.look()
    return trial


def drain_against_a_worker_that_takes_the_call() -> Trial:
    """drain() waits for a call that is neither in the queue nor running yet (F3)."""
    trial = Trial(idle_timeout=0)
    trial.submit()
    future = trial.submit()
    assert trial.executor is not None
    assert trial.executor.drain()
    assert future.done(), "drain() left a call behind (F3)"
    return trial


def wait_against_cancel() -> Trial:
    """wait() sees that a call is cancelled that it begins to observe just then (A3, E1)."""
    trial = Trial(idle_timeout=0)
    ready = threading.Event()
    trial.submit(act=ready.wait)
    future = trial.submit()
    start(lambda: trial.cancel(future))
    assert wait([future]).done
    ready.set()
    return trial


def result_against_cancel() -> Trial:
    """result() sees that a call is cancelled that it begins to wait for just then (A3, E1)."""
    trial = Trial(idle_timeout=0)
    ready = threading.Event()
    trial.submit(act=ready.wait)
    future = trial.submit()
    start(lambda: trial.cancel(future))
    with suppress(CancelledError):
        future.result()
    ready.set()
    return trial


def result_against_cancel_of_an_observed_call() -> Trial:
    """The same, if somebody else is to be told, too (A3, E1)."""
    trial = Trial(idle_timeout=0)
    ready = threading.Event()
    trial.submit(act=ready.wait)
    future = trial.submit(observed=True)
    start(lambda: trial.cancel(future))
    with suppress(CancelledError):
        future.result()
    ready.set()
    return trial


def a_thread_that_can_start_later() -> Trial:
    """Where a thread could not be started, who takes a call tries again for the next (C4, C7)."""
    trial = Trial(2, idle_timeout=0)
    ready, done = threading.Event(), threading.Event()
    trial.submit(act=ready.wait)
    with mock.patch.object(threading.Thread, "start", side_effect=RuntimeError("can't start new thread")):
        trial.submit(act=done.wait)
        trial.submit(act=done.set)
    ready.set()
    return trial


def resume_against_a_worker_on_its_way() -> Trial:
    """Nobody rests for the sake of a held call that a worker takes which was called for another (C2, U5)."""
    trial, service = Trial(2, idle_timeout=1), Service()
    service.pause()
    trial.submit(service=service)
    trial.submit()
    start(service.resume)
    trial.submit()
    return trial


def the_first_call_of_an_upstream() -> Trial:
    """A worker that takes calls without asking anybody learns in time that there is an upstream (U5)."""
    trial, service = Trial(idle_timeout=0), Service()
    service.pause(1)
    trial.submit()
    trial.submit(service=service)
    return trial


def many_cancelled_calls_against_a_worker() -> Trial:
    """Those that are gone are dropped, and the others keep their order (D1, E4)."""
    trial = Trial(idle_timeout=0)
    ready = threading.Event()
    trial.submit(act=ready.wait)
    futures = [trial.submit() for _ in range(5)]
    trial.cancel(futures[0])
    trial.cancel(futures[1])
    ready.set()
    trial.cancel(futures[2])
    return trial


def submit_against_shutdown_with_a_worker() -> Trial:
    """A call that a worker has taken up meanwhile is accepted, and has all its attempts (F1, F4, G1)."""
    trial = Trial(idle_timeout=0)
    trial.submit()
    start(lambda: trial.shutdown(wait=False))
    trial.try_submit(1, lambda: time.sleep(0))
    return trial


def workers_that_share_a_place() -> Trial:
    """A call that was refused is not passed by one that a worker goes on with (D1, U4)."""
    trial = Trial(2, upstream=Service(max_concurrency=1), idle_timeout=0)
    for _ in range(3):
        trial.submit()
    return trial


def executors_that_share_a_place() -> Trial:
    """Who goes on with its own calls leaves the place when it has no more (U4)."""
    service = Service(max_concurrency=1)
    trial = Trial(upstream=service, idle_timeout=0)
    other = Trial(upstream=service, idle_timeout=0, beside=trial)
    trial.submit()
    trial.submit()
    other.submit()
    return trial


def a_done_callback_that_waits_for_a_place() -> Trial:
    """A worker does not keep its place while it runs done callbacks (F7, U4)."""
    service = Service(max_concurrency=1)
    trial = Trial(upstream=service, idle_timeout=0)
    other = Trial(upstream=service, idle_timeout=0, beside=trial)
    trial.try_submit(observed=True, then=lambda: other.submit().result())
    trial.submit()
    return trial


def a_slot_for_a_call_that_is_cancelled() -> Trial:
    """A slot that was taken for a call which is gone can be used by another (U4, E1)."""
    trial = Trial(upstream=Service(rate=(5, 1000.0)), idle_timeout=0)
    trial.submit()
    future = trial.submit()
    trial.submit()
    trial.cancel(future)
    return trial


def workers_that_share_slots() -> Trial:
    """Who took a slot and finds no call gives it back (U4)."""
    trial = Trial(2, upstream=Service(rate=(5, 1000.0)), idle_timeout=0)
    for _ in range(3):
        trial.submit()
    return trial


def pause_against_a_worker_that_goes_on() -> Trial:
    """From then on at most one attempt starts that was let through before (U5)."""
    service = Service(max_concurrency=2)
    trial = Trial(upstream=service, idle_timeout=0)
    for _ in range(3):
        trial.submit()
    service.pause()
    begun = service.attempts
    time.sleep(DELAY)
    trial.expect(service.attempts <= begun + 1, "a paused service is called (U5)")
    service.resume()
    return trial


def a_leader_that_knows_of_a_later_time() -> Trial:
    """Somebody wakes when an upstream opens, though another sleeps until a later retry is due (C4)."""
    trial, service = Trial(2, idle_timeout=5), Service(rate=(1, 1.0))
    trial.submit(1)
    time.sleep(0.1)
    trial.submit(service=service)
    trial.submit(service=service)
    return trial


def calls_become_mixed_against_a_worker_that_goes_on() -> Trial:
    """A view with another upstream: from now on a worker asks for each call, and not too late (U4, U5)."""
    trial = Trial(upstream=Service(max_concurrency=1), idle_timeout=0)
    trial.submit()
    trial.submit()
    assert trial.executor is not None
    trial.executor.with_options(upstream=None)
    return trial


def workers_that_share_few_slots() -> Trial:
    """Two who go on with their calls do not take the same slot (U4)."""
    trial = Trial(2, upstream=Service(rate=(3, 1000.0)), idle_timeout=0)
    both_work = threading.Event()
    trial.submit(act=both_work.wait)
    trial.submit(act=both_work.set)
    for _ in range(2):
        trial.submit()
    return trial


def a_worker_that_is_late_for_a_slot() -> Trial:
    """A slot counts from when it was taken, not from when that worker had looked at the clock (U4)."""
    trial = Trial(2, upstream=Service(rate=(2, 1.0)), idle_timeout=5)
    for _ in range(2):
        trial.submit()
    time.sleep(1.0)
    for _ in range(2):
        trial.submit()
    return trial


def room_in_an_upstream_against_cancel() -> Trial:
    """Whoever waits for room in an upstream gets it when a call is cancelled, or done (U6)."""
    trial = Trial(upstream=Service(max_pending=1), idle_timeout=0, when_full="wait")
    future = trial.submit()
    start(trial.try_submit)
    trial.cancel(future)
    return trial


def calls_of_two_upstreams() -> Trial:
    """Executors that name them in different orders never wait for each other for ever (U4)."""
    one, other = Service(max_concurrency=1), Service(max_concurrency=1)
    trial = Trial(idle_timeout=0)
    beside = Trial(idle_timeout=0, beside=trial)
    trial.submit(service=(one, other))
    beside.submit(service=(other, one))
    return trial


def a_call_of_two_upstreams_against_calls_of_each() -> Trial:
    """It starts when both let it through, and keeps neither from others meanwhile (U4)."""
    one, other = Service(max_concurrency=1), Service(max_concurrency=1)
    trial = Trial(2, idle_timeout=0)
    trial.submit(service=one)
    trial.submit(service=other)
    trial.submit(service=(one, other))
    trial.submit(service=other)
    return trial


def a_call_of_two_upstreams_that_is_cancelled() -> Trial:
    """Whatever was kept for it, or taken, is for others (U4, E1)."""
    one, other = Service(max_concurrency=1), Service(rate=(9, 1.0))
    trial = Trial(idle_timeout=0)
    beside = Trial(idle_timeout=0, beside=trial)
    trial.submit(service=one)
    future = trial.submit(service=(other, one))
    beside.submit(service=one)
    trial.cancel(future)
    return trial


def a_weight_that_is_corrected() -> Trial:
    """What an attempt turns out not to take can be used by a call of another executor at once (U4)."""
    service = Service(budget=(10, 1000.0))
    trial = Trial(idle_timeout=0)
    beside = Trial(idle_timeout=0, beside=trial)

    def act() -> None:
        report_weight(0)
        time.sleep(DELAY)

    trial.submit(act=act, service=service, weight=10)
    beside.submit(service=service, weight=10)
    return trial


def events_against_a_listener_that_falls_asleep() -> Trial:
    """Whoever listens is told of everything, in order (G3)."""
    trial = Trial(idle_timeout=0, listens=True)
    trial.submit()
    return trial


def not_now_and_a_failure() -> Trial:
    """An answer of "not now" uses up no attempt (U3)."""
    trial = Trial(idle_timeout=0)
    trial.try_submit(1, refusals=[NotNow(after=1.0)])
    return trial


# -- coroutines -----------------------------------------------------------------------------------


async def until_it_is_cancelled() -> None:
    """Wait for what never happens."""
    await asyncio.get_running_loop().create_future()


async def a_moment() -> None:
    """Let the loop go round once."""
    await asyncio.sleep(0)


def a_coroutine() -> Trial:
    """Both threads leave as soon as they have nothing to do (K1, K2)."""
    trial = Trial(idle_timeout=0)
    trial.launch()
    return trial


def launch_against_the_loop_thread_leaving() -> Trial:
    """A coroutine is launched when the loop's thread has nothing to do any more (K2, G1)."""
    trial = Trial(idle_timeout=0)
    trial.launch()
    trial.launch()
    return trial


def launches_against_a_look() -> Trial:
    """The loop's thread looks what to start when one more is launched (G1)."""
    trial = Trial(idle_timeout=0)
    first = trial.launch(act=until_it_is_cancelled)
    futures = [trial.launch(), trial.launch()]
    assert [1, 1] == [future.result() for future in futures]
    trial.cancel(first)
    return trial


def launch_against_idle_exit() -> Trial:
    """The time of both threads to leave comes when a coroutine is launched (K2, C5)."""
    trial = Trial(idle_timeout=1)
    trial.launch()
    trial.launch()
    return trial


def landing_against_the_last_worker_leaving() -> Trial:
    """Somebody stays to take up what lands, whatever else there was to do (K1, G1)."""
    trial = Trial(2, idle_timeout=0)
    trial.launch()
    trial.submit()
    return trial


def relaunch_after_result() -> Trial:
    """The call is done, so its worker may be leaving, and the loop's thread too (C5, K2)."""
    trial = Trial(idle_timeout=0)
    for _ in range(2):
        assert 1 == trial.launch().result()
    return trial


def two_submitters_of_coroutines() -> Trial:
    """Two threads launch to an executor that has no thread yet (C1, C5, K1)."""
    trial = Trial(idle_timeout=0)
    start(trial.launch)
    trial.launch()
    return trial


def two_workers_that_launch() -> Trial:
    """Both find that the loop has no thread: one starts it (K1)."""
    trial = Trial(2, idle_timeout=0)
    trial.launch()
    trial.launch()
    return trial


def cancel_against_launch() -> Trial:
    """A call is cancelled before its coroutine runs, or that is cancelled (E1, K3)."""
    trial = Trial(idle_timeout=0)
    assert trial.cancel(trial.launch(act=until_it_is_cancelled))
    return trial


def cancel_against_landing() -> Trial:
    """A coroutine ends when it is cancelled (E1, K3)."""
    trial = Trial(idle_timeout=0)
    future = trial.launch(act=a_moment)
    if not trial.cancel(future):
        assert 1 == future.result()
    return trial


def cancel_of_a_coroutine_that_runs() -> Trial:
    """It is cancelled, though the loop's thread sees to nothing but what others wake it for (K3)."""
    trial = Trial(idle_timeout=0)
    runs = threading.Event()

    async def run() -> None:
        runs.set()
        await until_it_is_cancelled()

    future = trial.launch(act=run)
    runs.wait()
    assert trial.cancel(future)
    return trial


def cancel_against_a_failing_coroutine() -> Trial:
    """No attempt follows (E1, K3)."""
    trial = Trial(idle_timeout=0)
    trial.cancel(trial.launch(1))
    return trial


def a_retry_of_a_coroutine() -> Trial:
    """It is in backoff when both threads have nothing to do (B7, C2, K1)."""
    trial = Trial(idle_timeout=0)
    trial.launch(1)
    return trial


def one_place_for_two_coroutines() -> Trial:
    """The worker of the second waits until the first has ended, and nobody else (K1)."""
    trial = Trial(idle_timeout=0, max_coroutines=1)
    trial.launch()
    trial.launch()
    return trial


def one_place_for_coroutines_of_two_workers() -> Trial:
    """All workers wait for a place, and none takes up what has landed (K1)."""
    trial = Trial(2, idle_timeout=0, max_coroutines=1)
    for _ in range(3):
        trial.launch()
    return trial


def cancel_against_a_place() -> Trial:
    """A coroutine that waits for a place is cancelled when there is one (E1, K1)."""
    trial = Trial(idle_timeout=0, max_coroutines=1)
    trial.launch()
    trial.cancel(trial.launch())
    return trial


def cancel_of_a_coroutine_without_a_place() -> Trial:
    """Its worker goes on with other calls (E1, K1)."""
    trial = Trial(idle_timeout=0, max_coroutines=1)
    first = trial.launch(act=until_it_is_cancelled)
    trial.cancel(trial.launch())
    assert 1 == trial.submit().result()
    trial.cancel(first)
    return trial


def landing_against_shutdown() -> Trial:
    """shutdown() waits until what has landed is taken up; then the loop is closed (F1, K2)."""
    trial = Trial(idle_timeout=1)
    future = trial.launch()
    trial.shutdown()
    assert 1 == future.result()
    return trial


def launch_against_shutdown() -> Trial:
    """A coroutine is accepted and done, or refused and never run (F4, G1)."""
    trial = Trial(idle_timeout=1)
    start(lambda: trial.try_submit(is_awaited=True))
    trial.shutdown()
    return trial


def landing_against_cancel_futures() -> Trial:
    """What runs ends as it does (F2)."""
    trial = Trial(idle_timeout=0)
    trial.launch(act=a_moment)
    trial.launch(1, act=a_moment)
    trial.shutdown(cancel_futures=True)
    return trial


def a_timeout_against_landing() -> Trial:
    """When time is up, a coroutine is cancelled, or it has ended (F3, K3)."""
    trial = Trial(idle_timeout=0)

    async def sleep() -> None:
        await asyncio.sleep(DELAY)

    trial.launch(act=sleep)
    trial.shutdown(timeout=DELAY)
    return trial


def a_coroutine_that_outlives_a_timeout() -> Trial:
    """It is cancelled, and all threads have ended when shutdown() returns (F3, K3)."""
    trial = Trial(idle_timeout=0)
    trial.launch(act=until_it_is_cancelled)
    trial.shutdown(timeout=DELAY)
    return trial


def callback_against_landing() -> Trial:
    """A done callback runs once, whether it comes before or after the coroutine has landed (A3)."""
    trial = Trial(idle_timeout=0)
    trial.launch(observed=True)
    return trial


def wait_against_landing() -> Trial:
    """wait() sees that a coroutine ends (A3)."""
    trial = Trial(idle_timeout=0)
    future = trial.launch()
    assert wait([future]).done
    return trial


def stats_against_landing() -> Trial:
    """Whoever asks finds a call in its worker, in flight, or counted, and not twice (G4)."""
    trial = Trial(idle_timeout=0)
    trial.launch()
    trial.look()
    trial.look()
    return trial


def drain_against_landing() -> Trial:
    """drain() waits for a call that is just being launched, or taken up (F3)."""
    trial = Trial(idle_timeout=0)
    future = trial.launch()
    assert trial.executor is not None
    assert trial.executor.drain()
    assert future.done(), "drain() left a call behind (F3)"
    return trial


def a_dropped_executor_with_a_coroutine() -> Trial:
    """It finishes its calls, then its threads go, without waiting to be idle (F5)."""
    trial = Trial(idle_timeout=None)
    trial.launch(act=a_moment)
    trial.executor = None
    return trial


def a_loop_thread_that_cannot_start() -> Trial:
    """An attempt fails that finds no thread for the loop, and the next may find one (C7, K1)."""
    trial = Trial(is_starved=True, idle_timeout=0)
    run = Run.active
    assert run is not None
    starts = iter([False])
    run.may_start = lambda name: not name.endswith("_loop") or next(starts, True)
    trial.launch()
    return trial


def a_landing_when_no_thread_can_start() -> Trial:
    """The worker that launched a coroutine is there when it lands (C7, G1)."""
    trial = Trial(idle_timeout=0)
    run = Run.active
    assert run is not None
    starts = iter([True, True])
    run.may_start = lambda name: next(starts, False)
    trial.launch()
    return trial


def set_result_against_landing() -> Trial:
    """set_result() and the coroutine: the first wins (A3)."""
    trial = Trial(idle_timeout=0)
    future = trial.launch(act=a_moment, observed=True)
    trial.calls[0].may_end_early = trial.calls[0].is_settled = True
    with suppress(InvalidStateError):
        future.set_result(1)
    return trial


def coroutines_and_one_place_upstream() -> Trial:
    """The place of an upstream goes with the call, from the worker to the loop and back (U4)."""
    trial, service = Trial(idle_timeout=0), Service(max_concurrency=1)
    trial.launch(act=a_moment, service=service)
    trial.launch(act=a_moment, service=service)
    return trial


def a_done_callback_that_launches() -> Trial:
    """The worker that runs it is busy, and takes up what it launched (C5, F7)."""
    trial = Trial(idle_timeout=0)
    trial.try_submit(is_awaited=True, observed=True, then=trial.launch)
    return trial


def a_coroutine_that_submits() -> Trial:
    """The loop's thread may see to a worker (C5, F7)."""
    trial = Trial(idle_timeout=0)

    async def act() -> None:
        trial.submit()

    trial.launch(act=act)
    return trial


SAMPLED: list[Scenario] = [
    as_completed_against_finishing,
    calls_of_two_upstreams,
    a_call_of_two_upstreams_against_calls_of_each,
    a_call_of_two_upstreams_that_is_cancelled,
]
"""Where the order depends on addresses in memory, so that not all schedules can be enumerated."""

VAST: list[Scenario] = [
    launch_against_idle_exit,
    two_submitters_of_coroutines,
    one_place_for_coroutines_of_two_workers,
    a_timeout_against_landing,
    a_coroutine_that_outlives_a_timeout,
    relaunch_after_result,
    two_workers_that_launch,
    landing_against_shutdown,
    landing_against_cancel_futures,
]
"""Of which so many schedules have even one preemption that only some are run, at random."""

LARGE: list[Scenario] = [
    two_calls_and_one_place,
    retry_at_once_and_one_place,
    two_executors_and_one_place,
    a_place_for_a_call_that_is_cancelled,
    a_place_for_an_executor_that_is_busy,
    a_probe_that_fails,
    cancel_futures_against_a_hold,
    executors_that_share_a_place,
    a_leader_that_knows_of_a_later_time,
    workers_that_share_few_slots,
    a_worker_that_is_late_for_a_slot,
    events_against_a_listener_that_falls_asleep,
    launches_against_a_look,
]
"""Of which so many schedules have two preemptions that those take too long but by night."""

MANY: list[Scenario] = [
    *LARGE,
    an_initializer_that_fails_later,
    sooner_retry_against_a_parked_leader,
    shutdown_against_cancel_futures,
    a_second_thread_that_cannot_start,
    threads_that_cannot_start_for_two_submitters,
    shutdown_against_a_thread_that_cannot_start,
    resume_against_a_worker_on_its_way,
    submit_against_shutdown_with_a_worker,
    drain_against_submit,
    shutdown_with_a_timeout,
    workers_that_share_a_place,
    workers_that_share_slots,
    a_done_callback_that_waits_for_a_place,
    room_in_an_upstream_against_cancel,
    a_weight_that_is_corrected,
    launch_against_the_loop_thread_leaving,
    landing_against_the_last_worker_leaving,
    cancel_against_a_failing_coroutine,
    a_retry_of_a_coroutine,
    one_place_for_two_coroutines,
    cancel_against_a_place,
    cancel_of_a_coroutine_without_a_place,
    launch_against_shutdown,
    callback_against_landing,
    stats_against_landing,
    cancel_of_a_coroutine_that_runs,
    wait_against_landing,
    drain_against_landing,
    a_dropped_executor_with_a_coroutine,
    a_loop_thread_that_cannot_start,
    a_landing_when_no_thread_can_start,
    set_result_against_landing,
    coroutines_and_one_place_upstream,
    a_done_callback_that_launches,
    a_coroutine_that_submits,
]
"""Of which those with one preemption are explored, but by night."""

SCENARIOS: list[Scenario] = [
    value
    for value in globals().values()
    if callable(value)
    and getattr(value, "__module__", "") == __name__
    and not iscoroutinefunction(value)
    and value not in (*SAMPLED, *VAST)
]
