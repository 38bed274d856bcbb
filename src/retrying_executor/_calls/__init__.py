"""What a call is, and which call is next; the only lock made here is the condition of an observed call.

Most calls are taken and made done without a lock that all threads share. So where only one thread may make a
change, it first *claims* it: it deletes a slot of the call, which succeeds for one thread only.

- ``_waits`` exists while the call waits. The thread that deletes it has the call. Back-off puts it back.
- ``_unobserved`` exists until a thread observes the call, or a worker or a canceller is about to make it done
  unobserved. A worker that deletes it makes the call done under its own lock, a canceller under the core's.
  Either has only the latches to open.

=========================== ================================================================================
a worker takes it           under its own lock, or the core's: deletes ``_waits``; if that is gone, another
                            thread has the call
a worker finishes it        under its own lock: deletes ``_unobserved`` and makes it done; if that is gone,
                            makes it done under the condition, and tells its observers
a thread observes it        deletes ``_unobserved``; if that is gone, takes and releases the lock of its
                            worker and the core's: if a thread had claimed the call, the call is done by then.
                            Last, gives it a condition, unless another thread has done so
a worker launches it        under its own lock: makes a flight its hand, while its coroutine runs
a worker takes it up        under its own lock: makes itself its hand again
a worker puts it in         under the core's lock: unless that was the last attempt, puts ``_waits`` back
backoff
a thread cancels it         under the core's lock: deletes ``_unobserved``, then ``_waits``, and makes it done
                            unobserved. If one is gone, observes it; under the condition and the core's lock:
                            deletes ``_waits`` and makes it done; if that is gone, and its function is a
                            coroutine function, makes it done all the same; else notes that the attempt that
                            runs is the last
``submit()`` refuses it     under the core's lock alone, since no thread has the future yet: deletes
                            ``_waits`` and makes it done; if that is gone, or an attempt was made, it was
                            accepted
a thread sets its outcome   observes it; under the condition and the core's lock: deletes ``_waits``, if it is
                            there, and makes it done
a thread waits for it       adds its latch, sets ``_awaited``, then reads ``_state``
a thread makes it done      sets ``_state``, then reads ``_awaited`` and opens the latches
=========================== ================================================================================

The last two rows claim nothing. Each thread writes first and reads then, so at least one of the two sees what
the other has written. What must stay true:

- A call becomes done once. Then its state never changes again, so reading ``_state`` needs no lock.
- An observed call becomes done under its condition, unless ``submit()`` refuses it. Lock order: condition,
  core's lock, worker's lock.
- While an attempt runs, ``_work``, ``_last`` and ``_attempts`` belong to its worker, without a lock, until
  another thread sets the outcome.
- In `shortcut`, nothing is called or allocated between a claim and the change it is for, so neither a
  destructor nor a signal handler runs in between. Elsewhere a ``finally`` completes the change, whatever they
  raise.

All of this needs the GIL. Without it two threads can delete one slot, so there each claim is made under the
core's lock.
"""
