"""Attempts that run elsewhere: in processes of the executor, or on an executor of somebody else's.

A worker thread drives each attempt: it sends the call as bytes, waits for the answer, and raises or returns
what that says. So retries, limits, futures and events stay with the core, which knows nothing of engines.

- `errand` stands in for the function of a call: it sends the call with the *runner* of its worker.
- `engine` says what runners and engines are; `processes` and `shared` are the two kinds. `pace` slows down
  the restarts of an engine that dies again and again.
- `far` is all that runs on the far side. It answers with bytes, whatever the call does.
- `packing` turns an exception into bytes there, whatever it refers to; `unpacking` turns these back.
"""
