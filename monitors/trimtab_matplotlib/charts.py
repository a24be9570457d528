"""Figures as SVG that stands inside a page: they take its colours, light or dark, and load nothing."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

import matplotlib as mpl
import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure as Canvas
from matplotlib.ticker import FuncFormatter, MaxNLocator

from trimtab.history import Quality
from trimtab.monitor import Figure
from trimtab.page import Page, Past

__all__ = ["histogram", "qualities"]

COLOURS = {
    "#010101": "var(--reference)",
    "#020202": "var(--current)",
    "#030303": "var(--muted)",
    "#040404": "var(--line)",
    "#050505": "var(--ink)",
}
"""Colours that Matplotlib draws with, and the page's own that stand in their place."""
REFERENCE, CURRENT, MUTED, LINE, INK = COLOURS

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "font.sans-serif": ["DejaVu Sans"],  # to lay out by; the page shows its own
    "font.size": 9.0,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.color": LINE,
    "xtick.labelcolor": MUTED,
    "ytick.color": LINE,
    "ytick.labelcolor": MUTED,
    "ytick.major.size": 0.0,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
}
POINTS = 72.0
MOST_DOTS = 100
SMALL, WIDE = (300.0, 104.0), (900.0, 210.0)
"""Width and height, in points."""


def histogram(figure: Figure) -> Markup:
    """Draw the shares of a column's values by bin: the reference as an area, the window as a line.

    Examples
    --------
    >>> drawn = Figure("a", np.array([0.5, 0.5]), np.array([0.1, 0.9]), np.array([0.0, 1.0, 2.0]))
    >>> svg = histogram(drawn)
    >>> svg.startswith("<svg"), "var(--current)" in svg, "http" in svg.replace("http://www.w3.org/", "")
    (True, True, False)
    """
    with _style(figure.name):
        canvas, axes = _axes(SMALL)
        axes.stairs(figure.before, figure.edges, fill=True, color=REFERENCE)
        axes.stairs(figure.now, figure.edges, color=CURRENT, linewidth=1.4, baseline=None)
        top = max(float(figure.before.max(initial=0.0)), float(figure.now.max(initial=0.0)))
        axes.set_ylim(0, 1.05 * (top or 1.0))
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.6g}"))
        axes.yaxis.set_major_locator(MaxNLocator(2))
        axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        return _svg(canvas, "shares of the values by bin")


def qualities(page: Page) -> Markup | None:
    """Draw the quality of the champions that served and of the first, window by window; None where none is known."""
    numbers = [past.record.number for past in page.history]
    champions = [past.record.champion for past in page.history]
    first = next((version for version in champions if version is not None), None)
    served, never = (
        [_value(past.qualities, version) for past, version in zip(page.history, versions, strict=True)]
        for versions in (champions, [first] * len(champions))
    )
    if not np.isfinite(served).any():
        return None
    with _style(page.metric):
        canvas, axes = _axes(WIDE)
        _mark_promotions(axes, page.history)
        here = page.window.record.number
        axes.axvspan(here - 0.5, here + 0.5, color=LINE, alpha=0.5, linewidth=0)
        dots: dict[str, Any] = {"marker": "o", "markersize": 3.5} if len(numbers) <= MOST_DOTS else {}
        axes.plot(numbers, never, color=MUTED, linewidth=1.2, linestyle=(0, (4, 2)))
        axes.plot(numbers, served, color=CURRENT, linewidth=1.6, **dots)
        axes.set_xlim(numbers[0] - 0.5, numbers[-1] + 0.5)
        axes.xaxis.set_major_locator(MaxNLocator(20, integer=True))
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if page.metric == "accuracy":
            axes.yaxis.set_major_formatter(FuncFormatter(_percent))
        axes.grid(axis="y")
        return _svg(canvas, f"{page.metric} by window")


def _percent(share: float, _: int | None = None) -> str:
    return f"{100 * share:.3g} %"


def _value(known: Mapping[int, Quality], version: int | None) -> float:
    return float("nan") if version is None or version not in known else known[version].value


def _mark_promotions(axes: Axes, history: Sequence[Past]) -> None:
    """Mark where champions changed, which is after the window that asked for it."""
    for past in history:
        for promotion in past.promotions:
            axes.axvline(past.record.number + 0.5, color=INK, linewidth=0.8, linestyle=(0, (1, 2)))
            axes.annotate(
                f"v{promotion.version}",
                (past.record.number + 0.5, 1.0),
                (3, -2),
                xycoords=("data", "axes fraction"),
                textcoords="offset points",
                va="top",
                color=MUTED,
            )


def _style(name: str) -> AbstractContextManager[None]:
    """Draw in the page's style; the ids of what is drawn follow from the name, the same whenever it is drawn."""
    style: Any = {**STYLE, "svg.hashsalt": name}
    return mpl.rc_context(style)


def _axes(size: tuple[float, float]) -> tuple[Canvas, Axes]:
    # not through pyplot, which keeps every figure and looks for a screen
    canvas = Canvas(figsize=(size[0] / POINTS, size[1] / POINTS), layout="constrained")
    return canvas, canvas.add_subplot()


def _svg(canvas: Canvas, label: str) -> Markup:
    file = io.StringIO()
    FigureCanvasSVG(canvas)  # what draws the figure from now on
    canvas.savefig(file, format="svg", transparent=True, metadata=dict.fromkeys(("Creator", "Date", "Format", "Type")))
    text = file.getvalue()
    text = re.sub(r'<g id="[^"]*"', "<g", text[text.index("<svg") :])  # the same in every figure, and a page has many
    for drawn, wanted in COLOURS.items():
        text = text.replace(drawn, wanted)
    return Markup(text.replace("<svg", f'<svg role="img" aria-label="{Markup.escape(label)}"', 1))  # noqa: S704
