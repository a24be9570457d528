"""What a part of a benchmark is given, and what it tells: figures by key, and tables that show them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from rich.table import Table

Figures = dict[str, Any]


@dataclass(frozen=True)
class Ground:
    """What a part is given.

    Parameters
    ----------
    seed
        Of all that is drawn.
    jobs
        Processes that may work at once, where no time is taken.
    quick
        Whether minutes count more than what the figures say.
    """

    seed: int = 0
    jobs: int = 1
    quick: bool = False


@dataclass(frozen=True)
class Told:
    """What a part tells.

    Parameters
    ----------
    figures
        By key, for ``results/monitoring.json``.
    tables
        To print.
    """

    figures: Figures
    tables: Sequence[Table] = ()
