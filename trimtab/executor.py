"""How the loop's steps are run and shown: in this process, or by whatever a flow passes in."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import ParamSpec, Protocol, TypeVar

from trimtab.errors import ServiceError

__all__ = ["Direct", "Executor", "Progress", "Silent"]

P = ParamSpec("P")
T = TypeVar("T")


class Executor(Protocol):
    """Runs one step of the loop; adds retries, boundaries or another machine, and decides nothing."""

    def call(self, name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run ``function`` under ``name``; a :class:`~trimtab.errors.ServiceError` may be tried again."""
        ...


class Direct:
    """Runs each step in this process, once more when a server did not answer.

    Parameters
    ----------
    retries
        Further tries after a :class:`~trimtab.errors.ServiceError`.

    Examples
    --------
    >>> Direct().call("add", lambda a, b: a + b, 1, 2)
    3
    """

    def __init__(self, retries: int = 1) -> None:
        self.retries = retries

    def call(self, name: str, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Run the step."""
        for _ in range(self.retries):
            try:
                return function(*args, **kwargs)
            except ServiceError:
                continue
        return function(*args, **kwargs)


class Progress(Protocol):
    """Shows how far the loop is."""

    def stage(self, name: str, total: int) -> AbstractContextManager[Callable[[str], None]]:
        """Open a stage of ``total`` steps; calling what it yields advances it by one and says what is next."""
        ...

    def say(self, message: str) -> None:
        """Show a line that stays."""
        ...


class Silent:
    """Shows nothing."""

    @contextmanager
    def stage(self, name: str, total: int) -> Iterator[Callable[[str], None]]:
        """Advance nothing."""
        yield lambda _: None

    def say(self, message: str) -> None:
        """Say nothing."""
