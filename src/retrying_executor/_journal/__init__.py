"""Calls that outlive their process: every accepted call is on disk until it is done.

A journal is a directory. Each executor that submits anything has two files in it, which share a random name:

``<name>.db``
    An SQLite database with a row for each call that is not done, or that failed for good: what to run, and
    how far it has come.
``<name>.lock``
    Locked for as long as the executor's process lives. It also holds a *mark* for each call whose row does
    not tell what the call is doing: that an attempt runs, that it is in backoff, that it is done. A mark is
    written with one system call, so it survives the death of the process. Rows are brought up to date later,
    many at a time.

What is on disk when:

=========================== ================================================================================
``submit()`` returns        the row, synced: it survives a power cut
an attempt begins           a mark
an attempt failed,          a mark; the row follows, without a sync
another follows
the call is done            a mark; then its row is deleted. Without a sync, so after a power cut a call that
                            was done lately may run again
the call failed for good    the row, with the error
``cancel()`` returns        as for a call that is done
=========================== ================================================================================

An executor *adopts* the calls of a dead one by taking the lock of its files, and goes on in these files. No
row is copied, so there is no moment at which a call is in two files, or in none. The system gives a lock
back when its process ends, however it ends, and not before: so nobody adopts from a process that is stopped.

A call whose attempt ran when its process died is *suspected* of having killed it. Suspects are run one
after the other, so that the next death accuses one of them only. After some deaths a call is set aside.
"""
