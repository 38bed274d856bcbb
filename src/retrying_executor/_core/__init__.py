"""One executor's calls, under one lock: from the door to their outcome.

Every part below shares the core's lock, ``lock``, and the ledger that it guards. While the lock is free:

- every accepted call is waiting (in the ledger's schedule), running (in a hand) or done, and exactly one of
  these;
- if a call waits, somebody will take it: a thread, or in virtual time any thread that waits; if it is ready
  and a thread rests or may be started, one is on its way; if it is in backoff and a thread rests or may be
  started, one leads or is on its way;
- a call becomes done once, by whatever took it out of the schedule or ran its last attempt;
- before ``only_fresh_until`` there is nothing to see to but fresh calls.

Most calls never meet this lock. They are queued without one, and taken and made done under the hand's own;
how that goes together with those that cancel or observe them stands in `_calls`. So the order is always:
publish first (a call, that a thread rests, that it left), then look once more for something to do.

Lock order: the registry of forks and exits; the condition of an observed call; the core's lock; those of the
hands. From the core's lock an upstream's is taken for a limited time only. Under the core's lock no thread is
started or asked whether it is alive, no user code runs and nothing is logged. Of those that wait, only
submitters (for room) and workers are woken under it.

A destructor or a signal handler may interrupt a thread that holds one of these locks, and use the executor
there. It may queue a call, have it refused, and look: so the locks are reentrant. Cancelling a call, setting
its outcome and ending the core are put off until that thread holds no lock any more (`Core.catch_up`), so the
parts below need not expect it between two steps. Such a thread may hold the lock of its own hand and wait for
the core's. So a thread that has the core's lock does not wait for that of a hand for ever.
"""
