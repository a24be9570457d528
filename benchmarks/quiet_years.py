"""How many rounds a year run without a cause: years of weekly windows in which nothing ever changes.

Labels come three windows late, which is the worst case: what labels say to be well starts no round because it moved,
and so late they say it of no window that still counts. A round without a cause gives the champion a new reference.
"""

from __future__ import annotations

import functools
import multiprocessing
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pandas as pd
from rates import at_least
from rich.table import Table
from sklearn.compose import make_column_transformer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler
from streams import Rng, Stream, generated
from telling import Figures, Ground, Told
from watching import Champion, Rates, Watch

from trimtab.monitor import Answer, Finding, Sample
from trimtab.trigger import Action, Trigger
from trimtab.window import Schema

YEARS, QUICK_YEARS = 200, 10
WEEKS = 52
PROJECT_YEARS = 10
COLUMNS = 5
ROWS, REFERENCE, FITTED = 300, 2000, 5000
DELAY = 3
NOISE = (0.05, 0.1, 0.15)
"""Shares of labels that are those of the other class: the champions' accuracies are about 0.92, 0.88 and 0.83."""


class Still:
    """A labelled stream in which nothing changes, and a classifier that was fitted to it once.

    Parameters
    ----------
    stream
        That rows come from.
    noise
        Share of the labels that no classifier can know.
    seed
        Of all rows.
    """

    def __init__(self, stream: Stream, noise: float, seed: Sequence[int]) -> None:
        self._stream, self._noise, self._seed = stream, noise, tuple(seed)
        rows, labels = self._draw(np.random.default_rng([*self._seed, 0]), FITTED)
        self._schema = Schema.freeze(stream.features, rows)
        coded = make_column_transformer(
            (StandardScaler(), stream.numbers), (OneHotEncoder(handle_unknown="ignore"), stream.categories)
        )
        self._model = make_pipeline(coded, LogisticRegression()).fit(rows, labels)

    def champion(self, which: int) -> Champion:
        """Return one with a reference of its own; the classifier is the same, as are the windows."""
        return Champion(self._sample(np.random.default_rng([*self._seed, 1, which]), REFERENCE, 0), self.window)

    @functools.lru_cache(DELAY + 1)  # noqa: B019 - a window is looked at twice, and there is one stream at a time
    def window(self, number: int) -> Sample:
        """Return a window's rows with labels and what the classifier says of them."""
        return self._sample(np.random.default_rng([*self._seed, 2, number]), ROWS, number)

    def _sample(self, rng: Rng, rows: int, number: int) -> Sample:
        frame, labels = self._draw(rng, rows)
        said = self._model.predict_proba(frame).astype(np.float32)
        return Sample(self._schema, frame, number, probabilities=said, labels=labels)

    def _draw(self, rng: Rng, rows: int) -> tuple[pd.DataFrame, npt.NDArray[np.int64]]:
        frame = self._stream.draw(rng, rows)
        likes = 0.5 * (frame["category_4"] == "a") + 0.2 * (frame["zeros_3"] > 0)
        codes = (frame["normal_0"] + np.log1p(frame["integer_2"]) + likes > 1.6).to_numpy()
        return frame, np.asarray(codes ^ (rng.random(rows) < self._noise), dtype=np.int64)


@dataclass(frozen=True)
class Project:
    """A project that is watched for some years.

    Parameters
    ----------
    noise
        Of its labels.
    windows
        How many.
    seed
        Of all that is drawn.
    """

    noise: float
    windows: int
    seed: tuple[int, ...]


def watched(project: Project) -> Counter[str]:
    """Watch a project, and count windows, alarms by monitor and by what alarmed, and rounds by cause."""
    still = Still(generated(COLUMNS), project.noise, project.seed)
    watch, champion, counts = Watch(Trigger(), WEEKS, DELAY), still.champion(0), Counter[str]()
    for number in range(1, project.windows + 1):
        found, decision = watch.close(number, champion)
        counts.update(["windows", *(what for finding in found for what in alarmed(finding))])
        if decision.action is Action.OPTIMIZE:
            counts.update(["rounds", f"round {decision.cause}"])
            champion = still.champion(counts["rounds"])
    return counts


def alarmed(finding: Finding) -> set[str]:
    """Return which monitor looked, whether it alarmed, and in which part."""
    found = {f"looked {finding.monitor}"}
    if finding.answer is Answer.WORSE:
        parts = {"worse over time" if " since window " in r else "worse at once" for r in finding.reasons}
        return {*found, f"alarm {finding.monitor}", *parts}
    if finding.answer is Answer.MOVED:
        names = finding.alarms or ()
        parts = {"moved rows" if n == "rows" else "moved pair" if " ~ " in n else "moved column" for n in names}
        return {*found, f"alarm {finding.monitor}", *parts}
    return found


def spread(projects: Sequence[Project], jobs: int) -> Counter[str]:
    """Watch projects in so many processes, and add up what was counted."""
    if jobs == 1:
        return sum(map(watched, projects), Counter())
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        return sum(pool.map(watched, projects), Counter())


def measure(ground: Ground) -> Told:
    """Count rounds without a cause."""
    years = QUICK_YEARS if ground.quick else YEARS
    projects = [
        Project(NOISE[k % len(NOISE)], PROJECT_YEARS * WEEKS, (ground.seed, k)) for k in range(years // PROJECT_YEARS)
    ]
    counts = spread(projects, ground.jobs)
    figures = figures_of(counts)
    return Told(figures, [_table(figures)])


def figures_of(counts: Counter[str]) -> Figures:
    """Return rates and their lower bounds: of rounds a year, and of alarms a window."""
    trigger = Trigger()
    windows, rates = counts["windows"], Rates.of(trigger, WEEKS)
    low = at_least(counts["rounds"], windows) * WEEKS
    alarms: Figures = {}
    for monitor, alpha in (("evidently.drift", rates.others), ("performance", rates.labelled)):
        looked, alarming = counts[f"looked {monitor}"], counts[f"alarm {monitor}"]
        alarms[monitor] = {
            "windows": looked,
            "alarms": alarming,
            "rate": alarming / looked,
            "low": at_least(alarming, looked),
            "alpha": alpha,
        }
    parts = {key: n / windows for key, n in sorted(counts.items()) if key.startswith(("moved ", "worse "))}
    told: Figures = {
        "years": windows / WEEKS,
        "rows": ROWS,
        "reference_rows": REFERENCE,
        "columns": COLUMNS,
        "rounds": counts["rounds"],
        "per_year": counts["rounds"] / windows * WEEKS,
        "low": low,
        "bound": "Clopper and Pearson, one-sided 99.9 %, of a window's rate, times 52",
        "false_rounds": trigger.false_rounds,
        "by_cause": {key.removeprefix("round "): n for key, n in sorted(counts.items()) if key.startswith("round ")},
        "alarms": alarms,
        "alarms_by_part": parts,
    }
    return {"false_rounds_per_year": told["per_year"], "quiet_years": {**told, "ok": low <= trigger.false_rounds}}


def _table(figures: Figures) -> Table:
    told = figures["quiet_years"]
    title = f"{told['years']:.0f} years of weekly windows in which nothing changes"
    table = Table("what", "number", "rate", "at least", "promised", title=title)
    rounds = (f"{told['per_year']:.2f} a year", f"{told['low']:.2f}", f"{told['false_rounds']:g}")
    table.add_row("rounds", str(told["rounds"]), *rounds)
    for cause, n in told["by_cause"].items():
        table.add_row(f"  by {cause}", str(n), f"{n / told['years']:.2f} a year", "", "")
    for monitor, of in told["alarms"].items():
        shown = (f"{of['rate']:.4f} a window", f"{of['low']:.4f}", f"{of['alpha']:.4f}")
        table.add_row(f"alarms of {monitor}", str(of["alarms"]), *shown)
    for part, rate in told["alarms_by_part"].items():
        table.add_row(f"  {part}", str(round(rate * told["years"] * WEEKS)), f"{rate:.4f} a window", "", "")
    return table
