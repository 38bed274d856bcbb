"""What each side does to a call without a lock in common, against each other: the scenario of each pair.

The sides are those of the table in `retrying_executor._calls`. Where a pair cannot meet, it says why.
"""

from __future__ import annotations

from scenarios import (
    Scenario,
    a_call_that_waits_for_another,
    callback_against_back_off,
    callback_against_finishing,
    cancel_against_a_failing_attempt,
    cancel_against_a_worker_that_takes_the_call,
    cancel_against_cancel,
    cancel_against_start,
    outcome_from_outside_against_a_failing_attempt,
    outcome_from_outside_against_cancel,
    outcome_from_outside_against_finishing,
    outcome_from_outside_against_who_waits,
    outcomes_from_outside_against_each_other,
    result_against_cancel,
    submit_against_cancel_futures,
    submit_against_shutdown_with_a_worker,
    two_who_observe_against_finishing,
    two_who_wait_against_finishing,
    wait_against_cancel,
    waiting_against_finishing,
)

SIDES = ["take", "finish", "observe", "back off", "cancel", "refuse", "settle from outside", "wait"]

ONE_WORKER = "a call is in the hands of one worker at a time"
NO_FUTURE = "submit() has not returned: nobody else has the future"
ONLY_DONE = "who waits looks at nothing but whether the call is done"

PAIRS: dict[tuple[str, str], Scenario | str] = {
    ("take", "take"): a_call_that_waits_for_another,
    ("take", "finish"): ONE_WORKER,
    ("take", "observe"): callback_against_finishing,
    ("take", "back off"): "a call is queued again at the very end of back-off, under the lock",
    ("take", "cancel"): cancel_against_a_worker_that_takes_the_call,
    ("take", "refuse"): submit_against_shutdown_with_a_worker,
    ("take", "settle from outside"): outcome_from_outside_against_finishing,
    ("take", "wait"): ONLY_DONE,
    ("finish", "finish"): ONE_WORKER,
    ("finish", "observe"): two_who_observe_against_finishing,
    ("finish", "back off"): ONE_WORKER,
    ("finish", "cancel"): cancel_against_start,
    ("finish", "refuse"): submit_against_shutdown_with_a_worker,
    ("finish", "settle from outside"): outcome_from_outside_against_finishing,
    ("finish", "wait"): waiting_against_finishing,
    ("observe", "observe"): two_who_observe_against_finishing,
    ("observe", "back off"): callback_against_back_off,
    ("observe", "cancel"): wait_against_cancel,
    ("observe", "refuse"): NO_FUTURE,
    ("observe", "settle from outside"): outcome_from_outside_against_who_waits,
    ("observe", "wait"): ONLY_DONE,
    ("back off", "back off"): ONE_WORKER,
    ("back off", "cancel"): cancel_against_a_failing_attempt,
    ("back off", "refuse"): submit_against_shutdown_with_a_worker,
    ("back off", "settle from outside"): outcome_from_outside_against_a_failing_attempt,
    ("back off", "wait"): ONLY_DONE,
    ("cancel", "cancel"): cancel_against_cancel,
    ("cancel", "refuse"): submit_against_cancel_futures,
    ("cancel", "settle from outside"): outcome_from_outside_against_cancel,
    ("cancel", "wait"): result_against_cancel,
    ("refuse", "refuse"): "a call is submitted once",
    ("refuse", "settle from outside"): NO_FUTURE,
    ("refuse", "wait"): NO_FUTURE,
    ("settle from outside", "settle from outside"): outcomes_from_outside_against_each_other,
    ("settle from outside", "wait"): outcome_from_outside_against_who_waits,
    ("wait", "wait"): two_who_wait_against_finishing,
}
