"""The space that a project's techniques span: every recipe is one of its points."""

from __future__ import annotations

import contextlib
import itertools
from collections import abc
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args, get_origin, get_type_hints

from trimtab import discover
from trimtab.errors import PluginError, SettingsError
from trimtab.recipe import Recipe, Step
from trimtab.sampler import Parameter, Point
from trimtab.technique import FLOAT, About

__all__ = ["LAST_ADAPTING_RUNG", "Choice", "Space", "converter", "try_out"]

NONE = "none"
RANGE = frozenset({"low", "high", "step", "log"})
LAST_ADAPTING_RUNG = 3
"""It trains every layer. What lies below takes so little that every round tries it."""


@dataclass(frozen=True)
class Choice:
    """One of the project's techniques with its settings, of which some may be ranges.

    Parameters
    ----------
    label
        Its name; with a number where the project lists it more than once.
    about
        Of the technique.
    fixed
        Settings that have one value.
    free
        Settings to choose or to draw.
    """

    label: str
    about: About
    fixed: Mapping[str, Any]
    free: tuple[Parameter, ...]

    def step(self, point: Point) -> Step:
        """Return the step with its settings at a point."""
        drawn = {p.name.removeprefix(f"{self.label}."): point[p.name] for p in self.free}
        return Step(technique=self.about.name, settings={**self.fixed, **drawn})

    def corner(self, end: int) -> Step:
        """Return the step with every free setting at its first (0) or last (-1) value."""
        return self.step({p.name: p.options[end] if p.options else (p.low, p.high)[end] for p in self.free})


class Space:
    """Every recipe that a round may try.

    A recipe takes one of the techniques that train, or the parent as it is where the project trains
    nothing; then one that compresses the float model or none, followed by what recovers from it; then a
    way into a format that the targets' runtimes take, with at most one technique that compresses there.

    Parameters
    ----------
    choices
        Names and settings of the project's techniques in order. A list as a value means: one of these;
        a mapping of ``low`` and ``high`` (and ``step``, ``log``): a number between.
    formats
        That the targets' runtimes take.
    parent
        The format that the trainer gives.
    trained
        Whether its models can be trained: else all that is done to them is done to what serves.

    Raises
    ------
    SettingsError
        When nothing can be built from the techniques, or a setting breaks its rule at an end of its range.

    Examples
    --------
    >>> space = Space([("finetune", {"epochs": {"low": 2, "high": 8}}), ("export", {}), ("quantize.static", {})])
    >>> [p.name for p in space.parameters]
    ['train', 'finetune.epochs', 'finish']
    >>> space.recipe({"train": "finetune", "finetune.epochs": 4, "finish": "export > quantize.static"}).name
    'finetune(epochs=4) > export > quantize.static'
    """

    def __init__(
        self,
        choices: Sequence[tuple[str, Mapping[str, Any]]],
        formats: Collection[str] = ("onnx",),
        parent: str = FLOAT,
        trained: bool = True,
    ) -> None:
        self.formats, self.parent, self.trained = tuple(formats), parent, trained
        self.choices = _read(choices)
        floats = [c for c in self.choices if trained and c.about.takes == c.about.gives == parent]
        adapts = [c for c in floats if c.about.rung is not None]
        self._rungs = sorted(adapts, key=lambda c: c.about.rung or 0)
        self._trains = [c for c in floats if c.about.renews_parent and (c.about.rung or 3) >= LAST_ADAPTING_RUNG]
        self._recovers = [c for c in floats if c.about.needs_teacher]
        others = (*self._trains, *self._rungs, *self._recovers)
        self._shrinks = [c for c in floats if c not in others]
        self._tails = _tails([c for c in self.choices if c not in floats], self.formats, parent)
        if not self.choices:
            raise SettingsError(
                "optimize.techniques names nothing, and the trainer suggests nothing; name some, in their order"
            )
        if not self._tails:
            raise SettingsError(_no_way([c.label for c in self.choices], self.formats, "the targets", parent))
        if not self._trains and not self._rungs and not any(self._compresses(t) for t in (*self._tails, self._shrinks)):
            raise SettingsError(
                "optimize.techniques: nothing trains and nothing compresses; add "
                f"{'finetune, scratch or ' if trained else ''}quantize.static"
            )
        self.parameters = self._parameters()
        for recipe in self.simple():
            recipe.check(self.formats, parent)

    @staticmethod
    def _compresses(tail: Sequence[Choice]) -> bool:
        return any(c.about.compresses for c in tail)

    def _parameters(self) -> tuple[Parameter, ...]:
        found: list[Parameter] = []
        for name, slot in (("train", self._trains), ("shrink", self._shrinks)):
            if slot:
                empty = (NONE,) if name == "shrink" else ()
                found.append(Parameter(name, (*empty, *(c.label for c in slot))))
                found += [_when(p, name, (c.label,)) for c in slot for p in c.free]
        shrunk = tuple(c.label for c in self._shrinks)
        found += [_when(p, "shrink", shrunk) for c in self._recovers for p in c.free if shrunk]
        found.append(Parameter("finish", tuple(self._label(t) for t in self._tails)))
        for choice in {c.label: c for tail in self._tails for c in tail}.values():
            where = tuple(self._label(t) for t in self._tails if choice in t)
            found += [_when(p, "finish", where) for p in choice.free]
        return tuple(found)

    def recipe(self, point: Point) -> Recipe | None:
        """Return the recipe at a point; None where nothing would happen to the parent but a conversion."""
        train = [c for c in self._trains if c.label == point.get("train")]
        shrink = [c for c in self._shrinks if c.label == point.get("shrink")]
        tail = next(t for t in self._tails if self._label(t) == point["finish"])
        if not train and not shrink and not self._compresses(tail):
            return None
        chosen = [*train, *shrink, *(self._recovers if shrink else ()), *tail]
        return Recipe(steps=tuple(c.step(point) for c in chosen))

    def untrained(self) -> list[Recipe]:
        """Return the recipes that only convert and compress the parent as it is: minutes cheaper than training."""
        tails = [t for t in self._tails if self._compresses(t) and not _trains(t)]
        return [Recipe(steps=steps) for t in tails for steps in _each(t)]

    def adapted(self, rung: int) -> list[Recipe]:
        """Return the recipes of one rung of the ladder: what serves is adapted, in the shape that it has.

        Below the last rung, which trains every layer, no way into the runtimes' formats trains them either.
        """
        return [
            Recipe(start="champion", steps=(*first, *last))
            for choice in self._rungs
            if choice.about.rung == rung
            for first in _each([choice])
            for tail in self._tails
            if rung >= LAST_ADAPTING_RUNG or not _trains(tail)
            for last in _each(tail)
        ]

    @property
    def unused(self) -> dict[str, str]:
        """Say of each technique that stands in no recipe why not, by its label.

        Examples
        --------
        >>> Space([("finetune", {}), ("distill", {}), ("export", {})]).unused["distill"]
        'distill is in no recipe: it learns from the float parent, and nothing here compresses a float model ...'
        """
        idle = {
            c.label: f"{c.label} is in no recipe: it learns from the float parent, and nothing here compresses a float "
            "model for it to recover; add a technique such as prune.channel, or leave it out of optimize.techniques"
            for c in (() if self._shrinks else self._recovers)
        }
        converts = [c for c in self.choices if not c.about.takes == c.about.gives == self.parent]
        return idle | {
            c.label: f"{c.label} is in no recipe: it takes {c.about.takes} and gives {c.about.gives}, and no way "
            f"from the float model to {' or '.join(self.formats)}, which the targets' runtimes take, leads through it; "
            f"{self._way_to(c.about)}, or leave it out of optimize.techniques"
            for c in converts
            if not any(c in tail for tail in self._tails)
        }

    def _way_to(self, about: About) -> str:
        if not self.trained:
            return "name a model.trainer whose models can be trained"
        if about.gives in self.formats:
            return f"add a technique that gives {about.takes}, such as export"
        return f"add a runtime that takes {about.gives} to targets"

    @property
    def shrinks(self) -> bool:
        """Whether a technique of the project compresses the float model."""
        return bool(self._shrinks)

    @property
    def rungs(self) -> tuple[int, ...]:
        """Rungs of the ladder that the project's techniques have."""
        return tuple(dict.fromkeys(c.about.rung for c in self._rungs if c.about.rung is not None))

    def simple(self) -> Iterator[Recipe]:
        """Yield one recipe of each kind at either end of every range, to check before anything runs."""
        for end in (0, -1):
            for tail in self._tails:
                body = [*self._trains[:1], *self._shrinks, *(self._recovers if self._shrinks else ()), *tail]
                yield Recipe(steps=tuple(c.corner(end) for c in body))
            for choice in (*self._trains, *self._rungs):
                yield Recipe(steps=tuple(c.corner(end) for c in (choice, *self._tails[0])))

    def probe(self, recipe: Recipe) -> Recipe | None:
        """Return the recipe without its training, to time the shape that it would have; None: that tells nothing."""
        loaded = [(step, step.load()) for step in recipe.steps]
        if recipe.start == "champion" or not any(self._is_shrinking(t.about) for _, t in loaded):
            return None
        kept = [
            step.model_copy(update={"settings": {**step.settings, t.about.effort: 0}}) if t.about.effort else step
            for step, t in loaded
            if not t.about.renews_parent and not t.about.needs_teacher
        ]
        probe = Recipe(steps=tuple(kept))
        return None if probe == recipe else probe

    def _label(self, tail: Sequence[Choice]) -> str:
        return " > ".join(c.label for c in tail) or self.parent

    def _is_shrinking(self, about: About) -> bool:
        return about.takes == about.gives == self.parent and not about.renews_parent and not about.needs_teacher


def converter(
    choices: Sequence[tuple[str, Mapping[str, Any]]],
    formats: Collection[str],
    where: str = "the targets",
    parent: str = FLOAT,
) -> tuple[Step, ...]:
    """Return the project's first way to bring a float model into a format that a runtime takes, compressing nothing.

    Parameters
    ----------
    choices
        Names and settings of the project's techniques.
    formats
        That the runtime takes.
    where
        What names the runtime, for the message.
    parent
        The format that the trainer gives.

    Raises
    ------
    SettingsError
        When the project names none.
    """
    read = _read(choices)
    plain = [c for c in read if not c.about.compresses and not c.about.takes == c.about.gives == parent]
    tails = _tails(plain, formats, parent)
    if not tails:
        raise SettingsError(_no_way([c.label for c in read], formats, where, parent))
    return tuple(choice.corner(0) for choice in tails[0])


def try_out(name: str, settings: Mapping[str, Any]) -> None:
    """Make one of the project's techniques at either end of its ranges, whatever else the project says.

    Raises
    ------
    SettingsError
        When there is no such technique, or a setting breaks its rule.
    """
    (choice,) = _read([(name, settings)])
    for end in (0, -1):
        choice.corner(end).load()


def _no_way(names: Sequence[str], formats: Collection[str], where: str, parent: str) -> str:
    such = next(_converting(parent, formats), None)
    return (
        f"optimize.techniques: none of {list(names)} gives {' or '.join(formats)}, which the runtimes of {where} take, "
        f"from {parent}, which model.trainer gives; add a technique that converts{f', such as {such}' if such else ''}"
    )


def _converting(parent: str, formats: Collection[str]) -> Iterator[str]:
    """Yield the installed techniques that bring a format into one of others and compress nothing."""
    for name in discover.installed("techniques"):
        with contextlib.suppress(PluginError):  # of one whose library is not installed
            about = discover.find("techniques", name).about
            if about.takes == parent and about.gives in formats and not (about.compresses or about.experimental):
                yield name


def _read(choices: Sequence[tuple[str, Mapping[str, Any]]]) -> list[Choice]:
    names = [name for name, _ in choices]
    read: list[Choice] = []
    for place, (name, settings) in enumerate(choices):
        label = name if names.count(name) == 1 else f"{name}#{names[: place + 1].count(name)}"
        free = tuple(
            parameter
            for key, value in settings.items()
            if not (isinstance(value, list) and _is_one_list(name, key, value))
            and (parameter := _parameter(f"{label}.{key}", value)) is not None
        )
        taken = {p.name.removeprefix(f"{label}.") for p in free}
        fixed = {k: v for k, v in settings.items() if k not in taken}
        start = {p.name.removeprefix(f"{label}."): p.options[0] if p.options else p.low for p in free}
        about = Step(technique=name, settings={**fixed, **start}).load().about
        read.append(Choice(label, about, fixed, free))
    return read


def _is_one_list(technique: str, key: str, value: list[Any]) -> bool:
    """Tell whether a list is the value of a setting that takes lists, and not several values to try."""
    hint = get_type_hints(discover.find("techniques", technique)).get(key)
    kinds = {get_origin(h) for h in (hint, *get_args(hint))}
    return bool(kinds & {tuple, list, abc.Sequence}) and not any(isinstance(v, list) for v in value)


def _parameter(name: str, value: Any) -> Parameter | None:
    if isinstance(value, list):
        if not value:
            raise SettingsError(f"optimize.techniques.{name}: an empty list leaves nothing to try; name a value")
        return Parameter(name, tuple(value))
    if not (isinstance(value, Mapping) and {"low", "high"} <= set(value) <= RANGE):
        return None
    low, high = value["low"], value["high"]
    if not all(isinstance(v, int | float) for v in (low, high)) or not low < high:
        raise SettingsError(f"optimize.techniques.{name}: low must be a number below high, got {low!r} and {high!r}")
    if value.get("log") and (low <= 0 or "step" in value):
        raise SettingsError(
            f"optimize.techniques.{name}: a logarithmic range lies above 0 and has no step, got {dict(value)}; "
            "leave out log, or set low above 0 and leave out step"
        )
    whole = isinstance(low, int) and isinstance(high, int) and isinstance(value.get("step", 1), int)
    return Parameter(name, (), low, high, value.get("step"), bool(value.get("log", False)), whole)


def _when(parameter: Parameter, name: str, values: tuple[Any, ...]) -> Parameter:
    p = parameter
    return Parameter(p.name, p.options, p.low, p.high, p.step, p.log, p.whole, (name, values))


def _trains(tail: Sequence[Choice]) -> bool:
    return any(c.about.effort is not None for c in tail)


def _tails(choices: Sequence[Choice], formats: Collection[str], parent: str) -> list[tuple[Choice, ...]]:
    """Return every way from a float model into one of the formats that compresses at most once, shortest first."""
    found: list[tuple[Choice, ...]] = []
    open_: list[tuple[Choice, ...]] = [()]
    while open_:
        tail = open_.pop(0)
        have = tail[-1].about.gives if tail else parent
        if have in formats:
            found.append(tail)
        compressed = any(c.about.compresses for c in tail)
        open_ += [
            (*tail, c)
            for c in choices
            if c.about.takes == have and c not in tail and not (compressed and c.about.compresses)
        ]
    return found


def _each(choices: Sequence[Choice]) -> Iterator[tuple[Step, ...]]:
    """Yield the steps at every point of their free settings; a range without a step gives its two ends."""
    free = [p for c in choices for p in c.free]
    values = [p.options or ((p.low, p.high) if p.step is None else p.values) for p in free]
    for drawn in itertools.product(*values):
        point = {p.name: v for p, v in zip(free, drawn, strict=True)}
        yield tuple(c.step(point) for c in choices)
