"""Energy, carbon and cost of a model's calls, and how whoever measures them says which method it used."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

__all__ = ["Energy", "Meter", "Usage"]


@dataclass(frozen=True)
class Usage:
    """What a number of calls took.

    Parameters
    ----------
    rows
        That were predicted.
    seconds, cpu_seconds
        By the clock, and of the processor over all cores.
    joules
        By the machine's own counter, between the beginning and the end of the calls; None without one.
    """

    rows: int
    seconds: float
    cpu_seconds: float
    joules: float | None = None


@dataclass(frozen=True)
class Energy:
    """What the calls of a model cost, for 1000 rows.

    Parameters
    ----------
    joules_per_1000_rows
        Of the processor alone: no memory, disk, cooling or power supply.
    carbon_g_per_1000_rows
        Grams of CO2 equivalent of that energy, or None where no country is named.
    cost_per_1000_rows
        In the currency of the price of a kilowatt-hour, or None where no price is named.
    method
        How it was found, in words.
    estimated
        Whether the energy was computed and not measured.
    """

    joules_per_1000_rows: float
    carbon_g_per_1000_rows: float | None
    cost_per_1000_rows: float | None
    method: str
    estimated: bool


class Meter(Protocol):
    """Says what calls cost; a frozen dataclass whose fields are its settings."""

    def counter(self) -> float | None:
        """Return joules that the machine's processors took since some moment; None where no counter is readable.

        It is read before and after the calls of a model.
        """
        ...

    def energy(self, usage: Usage) -> Energy:
        """Return the energy of the calls, measured where ``usage.joules`` is there, else estimated."""
        ...
