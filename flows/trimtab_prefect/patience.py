"""Outlasting servers that are away: one that died is mostly there again within minutes."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from typing import TypeVar

from trimtab.errors import ServiceError

__all__ = ["PAUSES", "patiently"]

PAUSES = (5.0, 10.0, 20.0, 40.0, 60.0, 60.0)
"""Seconds before each further try: some minutes, in which a server that died is there again."""

T = TypeVar("T")
logger = logging.getLogger(__name__)


def patiently(work: Callable[[], T], pauses: Sequence[float] = PAUSES) -> T:
    """Do work again when a server did not answer, after a pause; it must be work that may be done again.

    A deployment's next look may be a day away: what was cut off would wait for it.

    Raises
    ------
    ServiceError
        When the server is still away after the last pause.

    Examples
    --------
    >>> answers = iter([ServiceError("away"), "there"])
    >>> def ask() -> str:
    ...     answer = next(answers)
    ...     if isinstance(answer, ServiceError):
    ...         raise answer
    ...     return answer
    >>> patiently(ask, pauses=[0.01])
    'there'
    """
    for seconds in pauses:
        try:
            return work()
        except ServiceError as error:
            logger.warning("tried again in %.0f s: %s", seconds, error)
            time.sleep(seconds)
    return work()
