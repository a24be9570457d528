"""Lenses and sketches as plain arrays, in which a monitor's contract keeps them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from trimtab.monitor import Summary
from trimtab_evidently.scores import Sketch
from trimtab_evidently.sketch import LevelLens, LevelSketch, NumberLens, NumberSketch

__all__ = ["Lens", "Sketches", "pack_lenses", "unpack_lenses"]

Lens = NumberLens | LevelLens

ABOUT, LENSES = "about", "lenses"


def pack_lenses(lenses: Mapping[str, Lens]) -> Summary:
    """Return lenses by column as arrays."""
    about: dict[str, dict[str, Any]] = {}
    arrays: dict[str, Any] = {}
    for name, lens in lenses.items():
        if isinstance(lens, NumberLens):
            about[name] = {"even": lens.even, "center": lens.center, "chance": lens.chance}
            arrays[f"edges {name}"] = lens.edges
        else:
            about[name] = {"coded": lens.coded, "levels": list(lens.levels)}
    return {LENSES: np.array([json.dumps(about)]), **arrays}


def unpack_lenses(summary: Summary) -> dict[str, Lens]:
    """Read back what :func:`pack_lenses` gave."""
    about: dict[str, dict[str, Any]] = json.loads(str(summary[LENSES][0]))
    found: dict[str, Lens] = {}
    for name, told in about.items():
        if "coded" in told:
            found[name] = LevelLens(tuple(told["levels"]), told["coded"])
        else:
            found[name] = NumberLens(summary[f"edges {name}"], **told)
    return found


@dataclass(frozen=True)
class Sketches:
    """Sketches by column, and why a column has none.

    Parameters
    ----------
    by_name
        Of the columns.
    skipped
        Why a column could not be sketched.
    """

    by_name: dict[str, Sketch] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)

    def __add__(self, other: Sketches) -> Sketches:
        skipped = {**self.skipped, **other.skipped}
        both = {}
        for name in {**self.by_name, **other.by_name}:
            if name not in skipped:
                both[name] = _added(self.by_name.get(name), other.by_name.get(name))
        return Sketches(both, skipped)

    def pack(self) -> Summary:
        """Return them as arrays."""
        about: dict[str, Any] = {}
        arrays: dict[str, Any] = {}
        for name, sketch in self.by_name.items():
            arrays[f"counts {name}"] = sketch.counts
            if isinstance(sketch, NumberSketch):
                arrays[f"sums {name}"] = sketch.sums
                about[name] = [sketch.squares, sketch.missing, sketch.infinite]
            else:
                about[name] = [sketch.other, sketch.missing, dict(sketch.examples)]
        told = json.dumps({"sketches": about, "skipped": self.skipped})
        return {ABOUT: np.array([told]), **arrays}

    @classmethod
    def unpack(cls, summary: Summary, lenses: Mapping[str, Lens]) -> Sketches:
        """Read back what :meth:`pack` gave."""
        told = json.loads(str(summary[ABOUT][0]))
        found: dict[str, Sketch] = {}
        for name, rest in told["sketches"].items():
            lens, counts = lenses[name], summary[f"counts {name}"]
            if isinstance(lens, NumberLens):
                found[name] = NumberSketch(lens, counts, summary[f"sums {name}"], *rest)
            else:
                found[name] = LevelSketch(lens, counts, *rest)
        return cls(found, told["skipped"])


def _added(one: Sketch | None, other: Sketch | None) -> Sketch:
    if isinstance(one, NumberSketch) and isinstance(other, NumberSketch):
        return one + other
    if isinstance(one, LevelSketch) and isinstance(other, LevelSketch):
        return one + other
    alone = one or other
    if alone is None:
        raise TypeError("there is no sketch to add")
    return alone
