"""What a call is, and which is next; the only lock made here is the condition of an observed call.

Most calls are taken, made done and observed without a lock in common. What only one side may do it has to
*claim*: by deleting a slot, which succeeds for one thread only.

- ``_waits`` is there while the call waits. The side that deletes it has the call. Back-off puts it back.
- ``_unobserved`` is there until the call is observed, or about to be done without ever having been. The
  worker that deletes it makes the call done, under its own lock, and tells nothing but the latches.

=========================== ================================================================================
a worker takes it           under its own lock, or the core's: deletes ``_waits``; if it is gone, another side
                            has the call
a worker finishes it        under its own lock: deletes ``_unobserved`` and makes it done; if that is gone,
                            makes it done under the condition, and tells its observers
a thread observes it        deletes ``_unobserved``; if it is gone, waits until its worker has given its lock
                            back once: a worker that had claimed it has made it done. Then gives it the
                            condition, unless another thread has
a worker puts it in         under the core's lock: is it the last attempt? Else puts ``_waits`` back
backoff
a thread cancels it         observes it; under the condition and the core's lock: deletes ``_waits`` and makes
                            it done; if that is gone, the attempt that runs is the last
``submit()`` refuses it     under the core's lock alone, since nobody has the future yet: deletes ``_waits``
                            and makes it done; if that is gone, or an attempt was made, it was accepted
a thread sets its outcome   observes it; under both: deletes ``_waits``, if it is there, and makes it done
a thread waits for it       adds its latch, sets ``_awaited``, then looks at ``_state``
whatever makes it done      sets ``_state``, then looks at ``_awaited`` and the latches
=========================== ================================================================================

The last two have nothing to claim: each announces first, then looks, so at least one of them sees the other.
What must stay true:

- A call becomes done once. A state that is done never changes, so reading ``_state`` needs no lock.
- An observed call becomes done under its condition, but for one that is refused. Lock order: condition,
  core's lock, worker's lock.
- While an attempt runs, ``_work``, ``_last`` and ``_attempts`` belong to its worker, without a lock, until
  its outcome is set from outside.
- In `shortcut`, nothing is called or allocated between a claim and what it was for, so neither a destructor
  nor a signal handler gets in between. Elsewhere a ``finally`` completes the change, whatever they raise.

That takes the GIL. Without it two threads can delete one slot, so all of this happens under the core's lock.
"""
