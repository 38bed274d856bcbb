"""What ``python -m retrying_executor`` shows; the library itself does not use it."""
