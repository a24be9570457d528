"""Runs each step of the loop as a Prefect task: a name, a record, one more try when a server did not answer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

from prefect import task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State, TaskRun

from trimtab.errors import ServiceError

__all__ = ["PrefectExecutor"]

P = ParamSpec("P")
T = TypeVar("T")


class PrefectExecutor:
    """Runs each step as a task of the flow that runs, in the flow's own process and thread.

    Prefect keeps the step's name and state, never its arguments or its result: those may hold rows.

    Parameters
    ----------
    retries
        Further tries after a :class:`~trimtab.errors.ServiceError`; any other error is final.
    delay_seconds
        Time before each.
    """

    def __init__(self, retries: int = 1, delay_seconds: float = 1.0) -> None:
        self.retries = retries
        self.delay_seconds = delay_seconds

    def call(self, name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the step."""
        step = task(
            name=name,
            task_run_name=lambda: name,
            retries=self.retries,
            retry_delay_seconds=self.delay_seconds,
            retry_condition_fn=_server_was_silent,
            cache_policy=NO_CACHE,
            persist_result=False,
        )

        @step
        def run() -> T:
            return function(*args, **kwargs)

        return run()


def _server_was_silent(_task: Any, _run: TaskRun, state: State[Any]) -> bool:
    return isinstance(state.data, ServiceError)
