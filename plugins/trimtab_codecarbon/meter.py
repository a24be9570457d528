"""What calls cost, by codecarbon's knowledge of processors and countries; nothing is asked of any network."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import ClassVar

from codecarbon.core.cpu import DEFAULT_POWER_PER_CORE, TDP, IntelRAPL, is_rapl_available
from codecarbon.core.emissions import Emissions
from codecarbon.core.units import Energy as KilowattHours
from codecarbon.core.units import Time
from codecarbon.core.util import count_cpus
from codecarbon.external.geography import GeoMetadata
from codecarbon.input import DataSource

from trimtab.energy import Energy, Usage
from trimtab.errors import nearest

__all__ = ["Codecarbon"]

JOULES_PER_KWH = 3.6e6
POWERCAP = Path("/sys/class/powercap/intel-rapl/subsystem")


@dataclass(frozen=True)
class Codecarbon:
    """Energy of the processor through codecarbon (Courty et al.), carbon by country, cost by price.

    Where the processor counts its energy and lets it be read (RAPL; the files are root's by default),
    the energy is measured: of the whole processor, with whatever else runs on it and what it takes when
    idle. Elsewhere it is estimated: processor time times the rated power of one core, which is
    codecarbon's table entry for this processor over the cores that the system shows, or its 4 W where
    the table has none. In a virtual machine that shows few cores of a large processor that is far too
    much: set ``watts``.

    codecarbon's tracker, which asks the network where it is, is not used, and its carbon intensities
    are those that it brings along: yearly means of a country's electricity.

    Parameters
    ----------
    country
        ISO 3166 code of three letters, such as ``DEU``; None: no carbon.
    price_per_kwh
        In any currency; None: no cost.
    watts
        Rated power of one core, instead of codecarbon's.
    powercap
        Where the system shows the processor's counters.

    Examples
    --------
    >>> meter = Codecarbon(price_per_kwh=0.36, watts=5.0, powercap=Path("nowhere"))
    >>> energy = meter.energy(Usage(rows=500, seconds=3.0, cpu_seconds=2.0))
    >>> energy.joules_per_1000_rows, round(energy.cost_per_1000_rows * 1e6, 3), energy.estimated
    (20.0, 2.0, True)
    >>> energy.method
    'processor time x 5 W a core (setting watts)'
    """

    country: str | None = None
    price_per_kwh: float | None = None
    watts: float | None = None
    powercap: Path = POWERCAP

    name: ClassVar[str] = "codecarbon"

    def __post_init__(self) -> None:
        if self.watts is not None and not self.watts > 0:
            raise ValueError(f"watts must be above 0, got {self.watts}; leave it out for codecarbon's")
        if self.price_per_kwh is not None and not self.price_per_kwh >= 0:
            raise ValueError(f"price_per_kwh must be 0 or more, got {self.price_per_kwh}")
        if self.country is not None and self.country not in (known := DataSource().get_global_energy_mix_data()):
            raise ValueError(
                f"country must be an ISO 3166 code of three letters that codecarbon has a carbon intensity for, "
                f"got {self.country!r}.{nearest(self.country.upper(), known)}"
            )

    def counter(self) -> float | None:
        """Return joules that the processors took since this was first asked; None where RAPL cannot be read."""
        counter = _counter(self.powercap)
        return counter.joules() if counter else None

    def energy(self, usage: Usage) -> Energy:
        """Return the energy of calls, with carbon and cost where country and price are set."""
        if usage.joules:
            joules, method = usage.joules, "RAPL: all that the processor took during the calls"
        else:
            watts, method = (self.watts, "setting watts") if self.watts is not None else _rated()
            joules, method = usage.cpu_seconds * watts, f"processor time x {watts:.3g} W a core ({method})"
        per_1000 = 1000 * joules / usage.rows
        kwh = per_1000 / JOULES_PER_KWH
        return Energy(
            joules_per_1000_rows=per_1000,
            carbon_g_per_1000_rows=None if self.country is None else kwh * _grams_per_kwh(self.country),
            cost_per_1000_rows=None if self.price_per_kwh is None else kwh * self.price_per_kwh,
            method=method,
            estimated=not usage.joules,
        )


class Counter:
    """Sums what codecarbon reads from RAPL since the last reading."""

    def __init__(self, folder: Path) -> None:
        self._rapl = IntelRAPL(str(folder))
        self._rapl.start()
        self._total, self._last = 0.0, time.perf_counter()

    def joules(self) -> float:
        """Return the joules since the beginning."""
        now = time.perf_counter()
        with _quiet():
            details = self._rapl.get_cpu_details(Time.from_seconds(max(now - self._last, 1e-9)))
        self._last = now
        self._total += JOULES_PER_KWH * sum(value for key, value in details.items() if "Power" not in key)
        return self._total


@cache
def _counter(folder: Path) -> Counter | None:
    with _quiet():
        return Counter(folder) if folder.exists() and is_rapl_available(str(folder)) else None


@cache
def _rated() -> tuple[float, str]:
    """Return the rated watts of one core, and whose word that is."""
    cores = count_cpus()
    with _quiet():
        rated = TDP()
    if not rated.tdp or rated.tdp == cores * DEFAULT_POWER_PER_CORE:
        return float(DEFAULT_POWER_PER_CORE), f"codecarbon's default, as its table lacks {rated.model}"
    return rated.tdp / cores, f"codecarbon's {rated.tdp:g} W for {rated.model} over {cores} cores"


@cache
def _grams_per_kwh(country: str) -> float:
    where = GeoMetadata(country_iso_code=country, country_name=country)
    with _quiet():
        return 1e3 * float(Emissions(DataSource()).get_country_emissions(KilowattHours(1.0), where))


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep codecarbon from advising the user: what it falls back to is said in the method."""
    logger = logging.getLogger("codecarbon")
    level = logger.level
    logger.setLevel(logging.CRITICAL)
    try:
        yield
    finally:
        logger.setLevel(level)
