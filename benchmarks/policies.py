"""When to train anew: never, at every window, every third, by Evidently's default rules, or by the trigger.

On all sides a model is trained from scratch on the last four windows whose labels have come, which is one window
late, and serves from the next window on.
"""

from __future__ import annotations

import functools
import multiprocessing
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import preset
from courses import COURSES, Course
from rich.table import Table
from seeded import over_seeds, plain
from sklearn.exceptions import ConvergenceWarning
from sklearn.neural_network import MLPClassifier
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler
from telling import Figures, Ground, Told
from threadpoolctl import threadpool_limits
from watching import Champion, Watch

from trimtab.monitor import Sample
from trimtab.trigger import Action, Trigger

TRAINED, DELAY = 4, 1
"""Windows that a model is trained on, and after which labels come."""
HELD_BACK = 0.35
REFERENCE = 2000
HIDDEN, EPOCHS = (64, 64), 15
SEEDS = {"electricity": 3}
OTHER_SEEDS = 5
OTHERS = {f"cooldown {n}": Trigger(cooldown=n) for n in (0, 2, 3)} | {
    "never grown" if x is None else f"grown {x}x": Trigger(
        on=("worse", "moved", *([] if x is None else [f"grown {x}x"]))
    )
    for x in (None, 2, 3)
}
"""Triggers that differ from the defaults in one setting."""
MOST_OPTIMIZATIONS = 11
POINTS_BELOW, STRETCH = 0.015, 0.010
"""That accuracy may be below that of training at every window, and that it is hoped to be."""
LEAST_GAIN = 0.75
EVERY, THIRD, NEVER, OURS = "every window", "every third window", "never", "trimtab"


@dataclass
class Trained:
    """A model with what it says of the windows that it serves.

    Parameters
    ----------
    course
        That it was trained on a part of.
    model
        Gives two probabilities a row.
    held_back
        Places of the rows of its windows that it was not trained on.
    rows
        All rows of its windows.
    """

    course: Course
    model: Pipeline
    held_back: npt.NDArray[np.int64]
    rows: int
    _drifted: dict[int, float] = field(default_factory=dict)

    @functools.cached_property
    def champion(self) -> Champion:
        """As monitors see it."""
        return Champion(self._sample(self.held_back, 0), self._window)

    def right(self, number: int) -> float:
        """Return the share of a window's rows that it gets right."""
        seen = self._window(number)
        return float((self._said(self.course.places(number, number)).argmax(axis=1) == seen.labels).mean())

    def drifted(self, number: int) -> float:
        """Return the share of columns that Evidently by default holds for drifted."""
        if number not in self._drifted:
            places = (self.held_back, self.course.places(number, number))
            before, now = (self.course.features.iloc[p].reset_index(drop=True) for p in places)
            self._drifted[number] = preset.drifted_columns(before, now, ())
        return self._drifted[number]

    def _window(self, number: int) -> Sample:
        return self._sample(self.course.places(number, number), number)

    def _sample(self, places: npt.NDArray[np.int64], number: int) -> Sample:
        frame = self.course.features.iloc[places].reset_index(drop=True)
        labels = self.course.labels[places]
        return Sample(self.course.schema, frame, number, probabilities=self._said(places), labels=labels)

    def _said(self, places: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        with threadpool_limits(1):
            said = self.model.predict_proba(self.course.features.iloc[places])
        return np.asarray(said, dtype=np.float32)


class Models:
    """The models of one course and seed, each trained once, whoever asks for it.

    Parameters
    ----------
    course
        To train on.
    seed
        Of the models, and of which rows they are trained on.
    """

    def __init__(self, course: Course, seed: int) -> None:
        self.course, self._seed = course, seed
        rng = np.random.default_rng([seed, 2])
        self._held_back = rng.random(len(course.labels)) < HELD_BACK
        self._trained: dict[tuple[int, int], Trained] = {}

    def serving(self, number: int) -> Trained:
        """Return the model that serves from a window on: it knows the labels that came by the end of the one before."""
        first, last = known(number)
        if (first, last) not in self._trained:
            self._trained[first, last] = self._train(self.course.places(first, last))
        return self._trained[first, last]

    def _train(self, places: npt.NDArray[np.int64]) -> Trained:
        held_back = self._held_back[places]
        network = MLPClassifier(HIDDEN, max_iter=EPOCHS, batch_size=64, random_state=self._seed)
        model = make_pipeline(StandardScaler(), network)
        fitted, kept = places[~held_back], places[held_back]
        with threadpool_limits(1), warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # the number of epochs is meant
            model.fit(self.course.features.iloc[fitted], self.course.labels[fitted])
        thin = np.random.default_rng([self._seed, 3]).permutation(kept)[:REFERENCE]
        return Trained(self.course, model, np.sort(thin), len(places))


def known(number: int) -> tuple[int, int]:
    """Return the first and the last window that a model is trained on which serves from a window on."""
    last = max(0, number - 1 - DELAY)
    return max(0, last - TRAINED + 1), last


Asks = Callable[[int, Trained], bool]
"""Whether a round runs now that a window has closed."""


def every(windows: int) -> Asks:
    """Ask for a round at every so many windows."""
    return lambda number, _: number % windows == 0


def never(number: int, serving: Trained) -> bool:
    """Ask for none."""
    return False


class Evidently:
    """Ask for a round when enough columns have drifted by Evidently's default, at most as often as the trigger may.

    Parameters
    ----------
    share
        Of the columns; more than none where it is 0.
    cooldown
        Windows after that of a round in which no other runs.
    """

    def __init__(self, share: float, cooldown: int) -> None:
        self._share, self._cooldown = share, cooldown
        self._last: int | None = None

    def __call__(self, number: int, serving: Trained) -> bool:
        if self._last is not None and number - self._last <= self._cooldown:
            return False
        drifted = serving.drifted(number)
        asks = drifted > 0 and drifted >= self._share
        self._last = number if asks else self._last
        return asks


class Triggered:
    """Ask for a round when the trigger says so."""

    def __init__(self, trigger: Trigger, per_year: float) -> None:
        self._watch = Watch(trigger, per_year, DELAY)

    def __call__(self, number: int, serving: Trained) -> bool:
        trainable = len(serving.course.places(*known(number + 1)))
        _, decision = self._watch.close(number, serving.champion, trainable, serving.rows)
        return decision.action is Action.OPTIMIZE


@dataclass(frozen=True)
class Followed:
    """What a policy came to.

    Parameters
    ----------
    accuracy
        Mean over the windows after history.
    rounds
        Windows after which a round ran.
    """

    accuracy: float
    rounds: tuple[int, ...]


def follow(models: Models, asks: Asks) -> Followed:
    """Serve window after window by a policy."""
    serving, right, rounds = models.serving(1), [], []
    for number in range(1, models.course.last + 1):
        right.append(serving.right(number))
        if asks(number, serving):
            rounds.append(number)
            serving = models.serving(number + 1)
    return Followed(float(np.mean(right)), tuple(rounds))


def policies(per_year: float) -> dict[str, Callable[[], Asks]]:
    """Return what begins each policy, by its name."""
    default = Trigger().cooldown
    found: dict[str, Callable[[], Asks]] = {
        NEVER: lambda: never,
        EVERY: lambda: every(1),
        THIRD: lambda: every(3),
        "Evidently, half of the columns": lambda: Evidently(preset.HALF, default),
        "Evidently, any column": lambda: Evidently(0.0, default),
        OURS: lambda: Triggered(Trigger(), per_year),
    }
    return found


Run = dict[str, Followed]


def run(task: tuple[str, int]) -> tuple[str, int, Run]:
    """Follow every policy on one course with one seed; on a generated one, other triggers too."""
    name, seed = task
    course = COURSES[name](seed)
    models = Models(course, seed)
    begin = policies(course.per_year)
    if name != "electricity":
        begin |= {other: functools.partial(Triggered, t, course.per_year) for other, t in OTHERS.items()}
    return name, seed, {policy: follow(models, start()) for policy, start in begin.items()}


def spread(tasks: Sequence[tuple[str, int]], jobs: int) -> list[tuple[str, int, Run]]:
    """Do tasks in so many processes."""
    if jobs == 1:
        return [run(task) for task in tasks]
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        return list(pool.map(run, tasks))


def bars(followed: Mapping[str, tuple[float, float]], most: int | None) -> Figures:
    """Say what the trigger was measured by, and whether it holds.

    Parameters
    ----------
    followed
        Accuracy and number of optimizations by policy.
    most
        Optimizations that it may take; None: that is left open.
    """
    (never_right, _), (every_right, _), (third_right, _) = (followed[name] for name in (NEVER, EVERY, THIRD))
    right, rounds = followed[OURS]
    share = (right - never_right) / (every_right - never_right)
    found: Figures = {
        "optimizations": rounds,
        "below_every_window": every_right - right,
        "share_of_gain": share,
        "above_every_third_window": right - third_right,
        "stretch_ok": every_right - right <= STRETCH,
    }
    holds = [every_right - right <= POINTS_BELOW, share >= LEAST_GAIN, right >= third_right]
    return found | {"ok": all(holds) and (most is None or rounds <= most)}


def course_of(runs: Mapping[int, Run], names: Sequence[str], most: int | None) -> Figures:
    """Return a course's figures: of each policy over seeds, and whether the trigger is good enough."""
    by_policy: Figures = {}
    for name in names:
        alone = {str(seed): {"accuracy": r[name].accuracy, "rounds": [*r[name].rounds]} for seed, r in runs.items()}
        accuracies = [r[name].accuracy for r in runs.values()]
        optimizations = [len(r[name].rounds) for r in runs.values()]
        mean = {"accuracy": float(np.mean(accuracies)), "optimizations": float(np.mean(optimizations))}
        by_policy[name] = {**mean, "seeds": alone}
    means = {name: (by_policy[name]["accuracy"], by_policy[name]["optimizations"]) for name in names}
    by_seed = {
        str(seed): bars({name: (r[name].accuracy, float(len(r[name].rounds))) for name in names}, most)
        for seed, r in runs.items()
    }
    mean_bars = bars(means, most)
    return {"policies": by_policy, "mean": mean_bars, "seeds": by_seed, "ok": mean_bars["ok"]}


def others(runs: Mapping[str, Mapping[int, Run]]) -> Figures:
    """Return what other triggers came to on generated courses, and what each is above the defaults, seed by seed."""
    return {course: {name: _beside(by_seed, name) for name in (OURS, *OTHERS)} for course, by_seed in runs.items()}


def _beside(by_seed: Mapping[int, Run], name: str) -> Figures:
    above = [r[name].accuracy - r[OURS].accuracy for r in by_seed.values()]
    return {
        "accuracy": float(np.mean([r[name].accuracy for r in by_seed.values()])),
        "optimizations": float(np.mean([len(r[name].rounds) for r in by_seed.values()])),
        "above_defaults": plain(over_seeds(above)),
    }


def measure(ground: Ground) -> Told:
    """Follow every policy on every course, and other triggers on the generated ones."""
    seeds = {name: 1 if ground.quick else SEEDS.get(name, OTHER_SEEDS) for name in COURSES}
    tasks = [(name, ground.seed + k) for name, n in seeds.items() for k in range(n)]
    runs: dict[str, dict[int, Run]] = {name: {} for name in COURSES}
    for name, seed, found in spread(tasks, ground.jobs):
        runs[name][seed] = found
    return told(runs)


def told(runs: Mapping[str, Mapping[int, Run]]) -> Told:
    """Tell what the policies came to, by course and seed."""
    names = list(policies(1))
    figures: Figures = {
        _key(name): course_of(by_seed, names, MOST_OPTIMIZATIONS if name == "electricity" else None)
        for name, by_seed in runs.items()
    }
    beside = others({name: by_seed for name, by_seed in runs.items() if name != "electricity"})
    tables = [_table(name, figures[_key(name)]) for name in runs]
    return Told(figures | {"other_triggers": beside}, [*tables, _others_table(beside)])


def _key(course: str) -> str:
    return course.replace(" ", "_")


def _table(course: str, of_course: Figures) -> Table:
    table = Table("policy", "optimizations", "accuracy", "by seed", title=course)
    for policy, of in of_course["policies"].items():
        by_seed = ", ".join(f"{s['accuracy']:.3f} ({len(s['rounds'])})" for s in of["seeds"].values())
        table.add_row(policy, f"{of['optimizations']:.1f}", f"{of['accuracy']:.3f}", by_seed)
    by_name = {"mean": of_course["mean"], **of_course["seeds"]}
    table.caption = "\n".join(_words(name, of) for name, of in by_name.items())
    return table


def _words(name: str, of: Mapping[str, Any]) -> str:
    below, above = 100 * of["below_every_window"], 100 * of["above_every_third_window"]
    verdict = "holds" if of["ok"] else "FAILS"
    return (
        f"{name}: {below:.1f} points below every window, {of['share_of_gain']:.0%} of its gain, "
        f"{above:+.1f} beside every third: {verdict}"
    )


def _others_table(by_course: Figures) -> Table:
    table = Table("course", "trigger", "optimizations", "accuracy", "points above the defaults", title="Other triggers")
    for course, by_name in by_course.items():
        for name, of in by_name.items():
            value, low, high = (of["above_defaults"][key] for key in ("value", "low", "high"))
            bounds = "" if low is None else f" ({100 * low:+.2f} to {100 * high:+.2f})"
            shown = (f"{of['optimizations']:.1f}", f"{of['accuracy']:.4f}", f"{100 * value:+.2f}{bounds}")
            table.add_row(course, name, *shown)
    return table
