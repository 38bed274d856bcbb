"""One executor's calls, under one lock: from the moment they are submitted to their outcome.

Every module here shares the core's lock and the ledger that it guards. While the lock is free:

- every accepted call is waiting (in the ledger's schedule), running (in a hand) or done, and exactly one of
  these;
- every call that waits will be taken. With threads: if a call is ready and a thread rests or may be started,
  one is on its way; if a call is in backoff and a thread rests or may be started, one leads or is on its way.
  In virtual time: by any thread that waits;
- a call becomes done once, by the thread that took it out of the schedule or made its last attempt;
- before ``only_fresh_until`` there is nothing to do but to take fresh calls.

Most calls never meet this lock. They are queued without a lock, and taken and made done under that of a hand.
`_calls` has a table of how this goes together with threads that cancel or observe them. So the order is
always: publish first (a call; that a thread rests; that it left), then look once more for something to do.

Lock order: the registry of forks and exits; the condition of an observed call; the core's lock; the hands'
locks. A thread that holds the core's lock waits for an upstream's lock for a limited time only. Under the
core's lock no thread is started or asked whether it is alive, no user code runs and nothing is logged. Of all
waiting threads, only submitters (for room) and workers are woken under it.

A destructor or a signal handler may interrupt a thread that holds one of these locks, and use the executor
there. It may queue a call, have that refused, and look at the state: so the locks are reentrant. Cancelling a
call, setting its outcome and ending the core are put off until the thread holds no lock any more
(`Core.catch_up`). So the modules here need not expect these between two steps. An interrupted thread may hold
the lock of its own hand and wait for the core's. So a thread that holds the core's lock waits for the lock of
a hand for a limited time only.
"""
