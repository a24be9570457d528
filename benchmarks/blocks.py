"""A network whose blocks were searched, beside the same network with channels pruned, at equal latency and training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from grounds import CASES, Ground, Size
from placing import Abouts, placed
from seeded import plain

from trimtab.benchmark import CONFIDENCE
from trimtab.benchmark import compare as change
from trimtab.errors import ArtifactError, PluginError, TrimtabError
from trimtab.intervals import Interval
from trimtab.loadable import Loadable
from trimtab.metric import Accuracy, answer, score
from trimtab.recipe import Recipe, Step
from trimtab.timing import compare

NAME = "search.block"
RUNTIME = "onnxruntime"
RATIOS = tuple(round(0.1 * tenths, 1) for tenths in range(1, 10))
CASE = "cifar"


def measure(folder: Path, known: Abouts, size: Size, seed: int, threads: int) -> dict[str, Any]:
    """Compare the two on the networks of some seeds."""
    found: dict[str, Any] = {}
    for number in range(seed, seed + size.seeds):
        ground = Ground.lay(CASES[CASE](number, size), known, folder / f"{CASE}-{number}", number, threads)
        found[str(number)] = one(ground, size)
    return found


def one(ground: Ground, size: Size) -> dict[str, Any]:
    """Compare on one seed; what refuses says why."""
    try:
        return duel(ground, NAME, size)
    except TrimtabError as error:
        return {"refused": str(error)}


def duel(ground: Ground, name: str, size: Size) -> dict[str, Any]:
    """Let a technique's network and a pruned one that is no slower train equally long, and judge both.

    The technique is placed with recovery after it where it departs from its parent. Of the pruned networks the
    least pruned that is at least as fast is taken, before it is trained; it learns from the float network for as
    many epochs as the other took in all.
    """
    recipe = placed(name, ground.known)[-1]
    gives = ground.known[recipe.steps[-1].technique].gives
    epochs = sum(step.effort for step in ground.kitchen.build(recipe, (gives,)).steps)
    searched = ground.loadable(recipe, RUNTIME)
    ratio = _no_slower(ground, searched, size)
    pruned = ground.loadable(_pruned(ratio, epochs), RUNTIME)
    answers = {key: answer(model.load(1, 256), ground.judge) for key, model in (("it", searched), ("pruned", pruned))}
    return {
        "recipe": recipe.name,
        "pruned": _pruned(ratio, epochs).name,
        "epochs": epochs,
        "ratio": ratio,
        "accuracy": {key: score(Accuracy(), said) for key, said in answers.items()},
        "gain": plain(change(Accuracy(), answers["it"], answers["pruned"], CONFIDENCE).gain),
        "speedup": plain(_speedup(ground, pruned, searched, size.seconds)),
        "size_ratio": searched.model.size_bytes / pruned.model.size_bytes,
    }


def _pruned(ratio: float, epochs: int) -> Recipe:
    steps = [Step(technique="prune.channel", settings={"ratio": ratio})]
    return Recipe(steps=(*steps, *([Step(technique="distill", settings={"epochs": epochs})] if epochs else [])))


def _no_slower(ground: Ground, searched: Loadable, size: Size) -> float:
    """Return the least ratio at which the pruned network is at least as fast; the largest that cuts where none is.

    Raises
    ------
    PluginError
        When no ratio removes a channel.
    """
    cut: list[float] = []
    for ratio in RATIOS:
        try:
            pruned = ground.loadable(_pruned(ratio, 0), RUNTIME)
        except PluginError:  # so little that it removes nothing
            continue
        cut.append(ratio)
        if _speedup(ground, searched, pruned, size.seconds / 2).value >= 1:
            return ratio
    if not cut:
        raise PluginError(f"prune.channel removes nothing at any ratio of {RATIOS}; compare on a wider network")
    return cut[-1]


def _speedup(ground: Ground, base: Loadable, model: Loadable, seconds: float) -> Interval:
    """Return how many times as fast a model is as another, at batch 1."""
    found = compare(base, {"it": model}, ground.judge, seconds=seconds, confidence=CONFIDENCE)["it"]
    if isinstance(found, ArtifactError):
        raise found
    return found.speedup
