"""What a technique promises."""

# ruff: noqa: D401 (the docstring of a check says what is lost, which is no command)

from __future__ import annotations

import dataclasses
import math

import yaml

from trimtab.artifact import Model
from trimtab.errors import DataError, OutOfTimeError
from trimtab.recipe import Recipe, Step
from trimtab.technique import About, Technique
from trimtab.testing.material import (
    SEED,
    Material,
)
from trimtab.testing.promise import refuses_unknown, remade, require, says_what_it_is
from trimtab.testing.runtimes import predicts

SAME_SIZE = 0.02


def check_technique_says_what_it_is(technique: Technique, material: Material) -> None:
    """The search cannot place it in a recipe, and a wrong recipe is found only after an hour of training."""
    says_what_it_is(technique, {"about": About})
    effort, fields = technique.about.effort, {f.name for f in dataclasses.fields(technique)}  # type: ignore[arg-type]
    require(effort is None or effort in fields, f"{technique.about.name}.about.effort {effort!r} is no setting of it")


def check_settings_survive_yaml(technique: Technique, material: Material) -> None:
    """What a version's recipe.json says is not how it was built, and nobody can build it again."""
    step = Step(technique=technique.about.name, settings=dataclasses.asdict(technique))  # type: ignore[call-overload]
    recipe = Recipe(steps=(step,))
    back = Recipe.model_validate(yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json"))))
    again = remade(technique, back.steps[0].settings)
    require(again == technique, f"{technique} came back from YAML as {again}")


def check_technique_refuses_unknown_settings(technique: Technique, material: Material) -> None:
    """A misspelt setting is silently without effect, and the round tries something else than was asked."""
    refuses_unknown(technique)


def check_leaves_its_input_alone(technique: Technique, material: Material) -> None:
    """The champion is altered while it serves, and every later candidate is cut from a spoilt parent."""
    altered = material.trial(technique).altered
    require(not altered, f"{technique.about.name} altered the files of its {' and '.join(altered)}")


def check_writes_only_into_its_folder(technique: Technique, material: Material) -> None:
    """Two rounds on one machine overwrite each other, and the disk fills with files that nobody removes."""
    strays = material.trial(technique).strays
    require(not strays, f"{technique.about.name} wrote outside job.folder: {[str(p) for p in strays]}")


def check_same_seed_same_model(technique: Technique, material: Material) -> None:
    """A crashed round that resumes gets another model, and a result cannot be repeated."""
    first, second = material.trial(technique).model, material.apply(technique)
    require(
        first.digest == second.digest,
        f"{technique.about.name} with seed {SEED} gave {first.digest[:12]} and then {second.digest[:12]}; "
        "draw from job.seed alone, and write no instant or path into the files",
    )


def check_describes_what_it_wrote(technique: Technique, material: Material) -> None:
    """The next step loads another model than this one gave."""
    job, model = material.trial(technique).job, material.trial(technique).model
    require(
        model.folder == job.folder,
        f"{technique.about.name} returned folder {model.folder}, not job.folder {job.folder}",
    )
    require(
        model.format == technique.about.gives,
        f"{technique.about.name} gives {technique.about.gives}, returned {model.format}",
    )
    require(
        model == Model.at(job.folder, model.format),
        f"{technique.about.name} returned a digest that its files do not have",
    )
    require(model.size_bytes > 0, f"{technique.about.name} wrote nothing that serves")


def check_its_model_predicts(technique: Technique, material: Material) -> None:
    """Every candidate of a round that uses it fails when it is measured, after all the time it took."""
    model = material.trial(technique).model
    if model.format not in material.serving.takes and model.format == material.converter.about.takes:
        model = material.converter.apply(model, material.data, material.job("converted", teacher=material.parent))
    predicts(material.runtime_for(model.format).load(model), material)


def check_names_missing_data(technique: Technique, material: Material) -> None:
    """A round without labels ends in a stack trace that tells nobody to wait for labels."""
    if not technique.about.needs_data:
        return
    try:
        material.apply(technique, material.no_data)
    except DataError as error:
        require(bool(str(error)), f"{technique.about.name} raised a DataError without words")
    except Exception as error:  # whatever else it raises is the finding
        raise AssertionError(
            f"{technique.about.name} without a row raised {error!r}; raise DataError with the way out"
        ) from error
    else:
        require(False, f"{technique.about.name} says needs_data, and made a model from no row")


def check_works_without_labels(technique: Technique, material: Material) -> None:
    """A round that has rows and no label yet tries nothing, though its cheapest technique asks for none."""
    try:
        material.apply(technique, material.unlabelled)
    except DataError as error:
        require(
            technique.about.needs_labels,
            f"{technique.about.name} raised {error!r} on rows without labels; say needs_labels, or do without",
        )
    except Exception as error:  # as above
        raise AssertionError(
            f"{technique.about.name} raised {error!r} on rows without labels; say needs_labels, and raise DataError"
        ) from error


def check_gives_up_in_time(technique: Technique, material: Material) -> None:
    """A round of two minutes takes an hour, since nothing ends a training that began in time."""
    effort = technique.about.effort
    try:
        material.apply(technique, deadline=-math.inf)
    except OutOfTimeError:
        return
    except Exception as error:  # as above
        raise AssertionError(
            f"{technique.about.name} past its deadline raised {error!r}, not OutOfTimeError"
        ) from error
    long = effort is not None and getattr(technique, effort) != 0
    require(not long, f"{technique.about.name} worked on past its deadline; look at job.deadline as {effort} go by")


def check_shows_its_shape_without_effort(technique: Technique, material: Material) -> None:
    """A shape that is too slow is trained for an hour before anybody times it."""
    about = technique.about
    if about.effort is None or about.renews_parent or about.needs_teacher:
        return
    try:
        quick = remade(technique, dataclasses.asdict(technique) | {about.effort: 0})  # type: ignore[call-overload]
        shape = material.apply(quick)
    except Exception as error:  # as above
        raise AssertionError(
            f"{about.name} with {about.effort}: 0 raised {error!r}; give the shape without training"
        ) from error
    whole = material.trial(technique).model.size_bytes
    require(
        abs(shape.size_bytes - whole) <= SAME_SIZE * whole,
        f"{about.name} gives {shape.size_bytes} bytes with {about.effort}: 0, and {whole} bytes otherwise",
    )
