"""Which recipes a round tries: from the techniques of the project, cheap ones first, within its budget."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

from trimtab.errors import SettingsError
from trimtab.recipe import Recipe, Step
from trimtab.technique import FLOAT, ONNX

__all__ = ["converter", "plan"]


def plan(choices: Sequence[tuple[str, Mapping[str, Any]]], candidates: int, gives: str = ONNX) -> list[Recipe]:
    """Lay out the recipes of a round.

    A recipe takes one of the training techniques, or the parent as it is; then every compressing
    technique or none, followed by what recovers from it; then conversion; then what compresses the
    converted model, or nothing. Recipes that share steps share their builds.

    Parameters
    ----------
    choices
        Names and settings of the project's techniques in order; a list as a value means: try each.
    candidates
        Most recipes to return.
    gives
        Format that the target's runtime takes.

    Raises
    ------
    SettingsError
        When nothing can be built from the techniques, saying what is missing.

    Examples
    --------
    >>> recipes = plan([("finetune", {}), ("export", {}), ("quantize.static", {})], 9)
    >>> [r.name for r in recipes]
    ['export > quantize.static', 'finetune > export', 'finetune > export > quantize.static']
    """
    steps = [(step.load(), step) for name, settings in choices for step in _variants(name, settings)]
    trains = [step for t, step in steps if t.about.renews_parent]
    shrinks = [
        step
        for t, step in steps
        if t.about.takes == t.about.gives == FLOAT and not t.about.renews_parent and not t.about.needs_teacher
    ]
    recovers = tuple(step for t, step in steps if t.about.needs_teacher)
    convert = converter(choices, gives)
    finishes = [step for t, step in steps if t.about.takes == t.about.gives == gives]
    tails = [(convert, *f) for f in [(), *((f,) for f in finishes)]]
    untrained = [tail for tail in tails if len(tail) > 1]
    bodies = [(), *((s, *recovers) for s in shrinks)]
    trained = [(t, *body, *tail) for t, body, tail in itertools.product(trains, bodies, tails)]
    recipes = [Recipe(steps=steps_) for steps_ in (*untrained, *trained)]
    if not recipes:
        raise SettingsError(
            "optimize.techniques: nothing trains and nothing compresses; add finetune, scratch or quantize.static"
        )
    for recipe in recipes:
        recipe.check(gives)
    return recipes[:candidates]


def _variants(name: str, settings: Mapping[str, Any]) -> list[Step]:
    keys = list(settings)
    values = [v if isinstance(v, list) else [v] for v in settings.values()]
    return [Step(technique=name, settings=dict(zip(keys, combo, strict=True))) for combo in itertools.product(*values)]


def converter(choices: Sequence[tuple[str, Mapping[str, Any]]], gives: str = ONNX) -> Step:
    """Return the project's first step that brings a float model into the format that the runtime takes.

    Raises
    ------
    SettingsError
        When the project names none.
    """
    steps = [(step.load(), step) for name, settings in choices for step in _variants(name, settings)]
    converts = [step for t, step in steps if t.about.takes == FLOAT and t.about.gives == gives]
    if not converts:
        raise SettingsError(
            f"optimize.techniques: none of {[name for name, _ in choices]} gives {gives}, which the target's "
            "runtime takes; add export"
        )
    return converts[0]
