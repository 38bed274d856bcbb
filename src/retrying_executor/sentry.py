"""Sentry: every call has scopes of its own, and so has every attempt.

Needs the extra ``sentry``.

```python
import sentry_sdk
from retrying_executor.sentry import RetryingExecutorIntegration

sentry_sdk.init(integrations=[RetryingExecutorIntegration()])
```
"""

from __future__ import annotations

from contextlib import contextmanager
from functools import wraps

from retrying_executor._common.callables import Enclosing
from retrying_executor._executor import Submitter

try:
    import sentry_sdk
    from sentry_sdk.integrations import Integration
except ImportError as error:
    raise ImportError("retrying_executor.sentry needs: pip install 'retrying-executor[sentry]'") from error

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from typing import Any

__all__ = ["RetryingExecutorIntegration"]


class RetryingExecutorIntegration(Integration):
    """Gives every attempt a copy of the scopes as they were at ``submit()``.

    Without it, an attempt has the submitter's scopes themselves. Then it sees tags that were set after
    ``submit()``, and the tags that it sets show up with the submitter and with other calls. The integration
    does for ``RetryingExecutor`` what ``ThreadingIntegration`` does for the standard executor. The *label*
    and the *key* given to ``with_options()`` are tags, ``retrying_executor.label`` and
    ``retrying_executor.key``.
    """

    identifier = "retrying_executor"

    @staticmethod
    def setup_once() -> None:
        """Called by ``sentry_sdk.init()``, once in a process."""
        submit: Callable[..., Any] = Submitter.submit

        @wraps(submit)
        def submit_isolated(self: Submitter, fn: Any, /, *args: Any, **kwargs: Any) -> Any:
            # This function stays in place for good: a later ``sentry_sdk.init()`` may not want it.
            if sentry_sdk.get_client().get_integration(RetryingExecutorIntegration) is None:
                return submit(self, fn, *args, **kwargs)
            terms = self._terms
            given = {"retrying_executor.label": terms.label, "retrying_executor.key": terms.key}
            tags = {name: value for name, value in given.items() if value is not None}
            with _isolation(
                tags
            ):  # what is captured by submit() is a copy; the tags: for what is logged about it
                return submit(self, _Isolated(fn, tags) if callable(fn) else fn, *args, **kwargs)

        Submitter.submit = submit_isolated  # type: ignore[method-assign]  # as integrations do


class _Isolated(Enclosing):
    """The function of a call. Every attempt of it has scopes of its own."""

    __slots__ = ("tags",)

    def __init__(self, func: Callable[..., Any], tags: dict[str, str]) -> None:
        super().__init__(func)
        self.tags = tags

    def around(self) -> AbstractContextManager[object]:
        """Return new scopes with the tags: with inherit_context=False, those of submit() are not there."""
        return _isolation(self.tags)


@contextmanager
def _isolation(tags: dict[str, str]) -> Iterator[None]:
    with sentry_sdk.isolation_scope() as scope:
        for name, value in tags.items():
            scope.set_tag(name, value)
        yield
