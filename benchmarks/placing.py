"""The shortest recipe that shows one technique alone, as what it says of itself and the engine's rules have it."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from trimtab import discover
from trimtab.errors import SettingsError, TrimtabError
from trimtab.recipe import Recipe, Step
from trimtab.space import converter
from trimtab.technique import FLOAT, About

Abouts = Mapping[str, About]


def abouts() -> tuple[dict[str, About], dict[str, str]]:
    """Return what every installed technique says of itself, and why those that cannot be made here cannot."""
    known: dict[str, About] = {}
    missing: dict[str, str] = {}
    for name in sorted(discover.installed("techniques")):
        try:
            known[name] = Step(technique=name).load().about
        except TrimtabError as error:
            missing[name] = str(error)
    return known, missing


def departs(about: About) -> bool:
    """Tell whether a technique leaves a float model that is no longer its parent, so that something may recover it."""
    keeps = about.renews_parent or about.needs_teacher or about.rung is not None
    return about.takes == about.gives == FLOAT and not keeps


def recovers(about: About) -> bool:
    """Tell whether a technique of the default search makes good what another took from the float model."""
    return about.takes == about.gives == FLOAT and about.needs_teacher and not about.experimental


def placed(name: str, known: Abouts) -> list[Recipe]:
    """Return the shortest recipe that ends with a technique, and where that departs from its parent, with recovery too.

    What learns from the parent has the technique before it that claims most of those that depart from it.

    Raises
    ------
    SettingsError
        When nothing that is installed brings a float model of the trainer's into the format that it takes.
    """
    about = known[name]
    first = _departure(known) if about.needs_teacher else ()
    alone = Recipe(steps=(*first, *_way(known, (about.takes,)), Step(technique=name)))
    after = [other for other, its in known.items() if departs(about) and recovers(its)]
    whole = [Recipe(steps=(*alone.steps, Step(technique=other))) for other in after]
    for recipe in (alone, *whole):
        recipe.check((about.gives,))
    return [alone, *whole]


def ending(recipe: Recipe, known: Abouts, formats: Collection[str]) -> Recipe:
    """Return the recipe with the steps that bring what it gives into one of a runtime's formats.

    Raises
    ------
    SettingsError
        When there are none.
    """
    gives = known[recipe.steps[-1].technique].gives if recipe.steps else FLOAT
    if gives in formats:
        return recipe
    if gives != FLOAT:
        raise SettingsError(f"nothing that is installed brings {gives} into {' or '.join(formats)}")
    return Recipe(steps=(*recipe.steps, *_way(known, formats)))


def _departure(known: Abouts) -> tuple[Step, ...]:
    def claim(name: str) -> tuple[bool, int, bool, str]:
        about = known[name]
        return about.experimental, -len(about.faster_on), not about.smaller, name

    return tuple(Step(technique=name) for name in sorted(filter(lambda n: departs(known[n]), known), key=claim)[:1])


def _way(known: Abouts, formats: Collection[str]) -> tuple[Step, ...]:
    """Return the shortest way from a float model into one of some formats; of two the one that reads no rows."""
    plain = [name for name, about in known.items() if not about.experimental]
    plain.sort(key=lambda name: (known[name].needs_data, name))
    try:
        return converter([(name, {}) for name in plain], formats)
    except SettingsError as error:
        raise SettingsError(
            f"it takes {' or '.join(formats)}, and nothing that is installed makes that of a {FLOAT} model"
        ) from error
