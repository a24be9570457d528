"""The contracts of plugins as checks that their authors run: each says what users lose when it fails."""

# ruff: noqa: D401 (the docstring of a check says what is lost, which is no command)

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import yaml

from trimtab import discover
from trimtab.artifact import FLOAT, Model, sha256_folder
from trimtab.data import Data, Role, Rows
from trimtab.errors import ArtifactError, DataError, PluginError, SettingsError, nearest
from trimtab.monitor import Answer, Finding, Monitor, Sample
from trimtab.recipe import Recipe, Step
from trimtab.registry import CandidateLog, Registry, RoundLog
from trimtab.runtime import CHAMPION, Runtime, Session
from trimtab.technique import About, Job, Technique, Trainer
from trimtab.window import Feature, Schema, Source

__all__ = ["Check", "Checked", "Material", "yield_checks"]

Checked = Literal["techniques", "monitors", "runtimes", "sources", "registries"]

LABEL = "y"
FEATURES = ("a", "b", "c", "d")
CENTRES = np.array([[0.0, 0.0, 0.0, 0.0], [3.0, 3.0, 0.0, 1.0], [0.0, 3.0, 3.0, -1.0]])
ROWS = 240
REFERENCE_ROWS = 600
ALPHA = 0.001
SEED = 7


def quiet_frame(rows: int, seed: int) -> pd.DataFrame:
    """Return labelled rows of three well separated classes with four numbers each.

    Examples
    --------
    >>> quiet_frame(3, seed=0).columns.tolist()
    ['a', 'b', 'c', 'd', 'y', 'id']
    """
    rng = np.random.default_rng(seed)
    labels = rng.permutation(np.arange(rows) % len(CENTRES))
    values = CENTRES[labels] + rng.normal(0.0, 0.7, size=(rows, len(FEATURES)))
    frame = pd.DataFrame(values, columns=list(FEATURES))
    return frame.assign(y=labels, id=[f"{seed}-{row}" for row in range(rows)])


def probabilities_of(frame: pd.DataFrame) -> npt.NDArray[np.float32]:
    """Return what a sound model says of :func:`quiet_frame`'s rows, float32 ``[rows, classes]``."""
    values = frame[list(FEATURES)].to_numpy(np.float64)
    scores = -((values[:, None, :] - CENTRES[None]) ** 2).sum(axis=2)
    odds = np.exp(scores - scores.max(axis=1, keepdims=True))
    return np.asarray(odds / odds.sum(axis=1, keepdims=True), dtype=np.float32)


@dataclass(frozen=True)
class Trial:
    """One application of a technique: its job, what it gave, which inputs it altered, files it wrote elsewhere."""

    job: Job
    model: Model
    altered: tuple[str, ...]
    strays: tuple[Path, ...]


@dataclass(frozen=True)
class Material:
    """What the checks work on: a small labelled table, its roles, and a model that was trained on it.

    A plugin whose models are not those of the trainer that comes with trimtab brings its own.

    Parameters
    ----------
    trainer
        Fits the float model; by default ``torch.classifier`` with a small network.
    runtime
        Loads what techniques give; by default ``onnxruntime``.
    export
        Brings the trainer's models into the runtime's format; by default ``export``.
    folder
        Where everything is laid down; a temporary one that goes with this object.

    Examples
    --------
    >>> sorted(Material().schema.names)
    ['a', 'b', 'c', 'd']
    """

    trainer: Trainer | None = None
    runtime: Runtime | None = None
    export: Technique | None = None
    folder: tempfile.TemporaryDirectory[str] = field(
        default_factory=lambda: tempfile.TemporaryDirectory(prefix="trimtab-checks-"), repr=False, compare=False
    )
    trials: dict[str, Trial] = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def base(self) -> Path:
        """The folder as a path."""
        return Path(self.folder.name)

    @functools.cached_property
    def schema(self) -> Schema:
        """Of the table."""
        return Schema.freeze({name: Feature() for name in FEATURES}, quiet_frame(ROWS, SEED), label=LABEL, id="id")

    @functools.cached_property
    def rows(self) -> Rows:
        """Encoded rows."""
        frame = quiet_frame(ROWS, SEED)
        return Rows(self.schema.encode(frame), self.schema.encode_labels(frame), np.arange(ROWS, dtype=np.uint64))

    @functools.cached_property
    def data(self) -> Data:
        """Every role with rows of its own."""
        quarter = ROWS // len(Role)
        roles = {role: self.rows.take(np.arange(i * quarter, (i + 1) * quarter)) for i, role in enumerate(Role)}
        return Data.write(self.base / "data", roles)

    @functools.cached_property
    def no_data(self) -> Data:
        """Every role without a row."""
        nothing = self.rows.take(np.zeros(0, dtype=np.int64))
        return Data.write(self.base / "no-data", dict.fromkeys(Role, nothing))

    @functools.cached_property
    def parent(self) -> Model:
        """A trained float model."""
        trainer = self.trainer or discover.build(
            "trainers",
            "torch.classifier",
            {"factory": "trimtab_torch.networks:Mlp", "arguments": {"hidden": [32, 32], "norm": True}, "epochs": 3},
            "model",
        )
        model: Model = trainer.fit(self.data, self.job("parent"))
        return model

    @functools.cached_property
    def exported(self) -> Model:
        """The parent in the runtime's format."""
        return self.converter.apply(self.parent, self.data, self.job("exported"))

    @functools.cached_property
    def converter(self) -> Technique:
        """What exports."""
        technique: Technique = self.export or discover.build("techniques", "export", {}, "optimize.techniques.export")
        return technique

    @functools.cached_property
    def serving(self) -> Runtime:
        """What loads exported models."""
        runtime: Runtime = self.runtime or discover.build("runtimes", "onnxruntime", {}, "targets")
        return runtime

    def runtime_for(self, format: str) -> Runtime:
        """Return the material's runtime where it takes the format, else an installed one that does.

        Raises
        ------
        AssertionError
            When none does.
        """
        for runtime in itertools.chain([self.serving], _installed_runtimes()):
            if format in runtime.takes:
                return runtime
        raise AssertionError(f"no installed runtime takes {format!r}; pass a Material with a runtime that does")

    def served(self, runtime: Runtime) -> Model:
        """Return a model that the runtime takes: the exported one, else the trained one.

        Raises
        ------
        AssertionError
            When the material has none in a format of the runtime's.
        """
        if self.converter.about.gives in runtime.takes:
            return self.exported
        _require(
            self.converter.about.takes in runtime.takes,
            f"{runtime.name} takes {runtime.takes!r}, the material's export gives {self.converter.about.gives!r}; "
            "pass a Material with an export that fits",
        )
        return self.parent

    def job(self, name: str, teacher: Model | None = None) -> Job:
        """Return a job in a new, empty folder."""
        folder = Path(tempfile.mkdtemp(prefix=f"{name}-", dir=self.base))
        return Job(folder, SEED, self.schema, teacher)

    def model_for(self, technique: Technique) -> Model:
        """Return a model that the technique takes.

        Raises
        ------
        AssertionError
            When the material has none in that format.
        """
        models = {FLOAT: self.parent} if technique.about.takes == FLOAT else {self.converter.about.gives: self.exported}
        _require(
            technique.about.takes in models,
            f"{technique.about.name} takes {technique.about.takes!r}; pass a Material whose export gives that format",
        )
        return models[technique.about.takes]

    def apply(self, technique: Technique) -> Model:
        """Let the technique work in a new folder, away from the working folder of whoever runs the checks."""
        model, job = self.model_for(technique), self.job("step", teacher=self.parent)
        with tempfile.TemporaryDirectory(dir=self.base) as elsewhere, contextlib.chdir(elsewhere):
            return technique.apply(model, self.data, job)

    def trial(self, technique: Technique) -> Trial:
        """Let the technique work once, watched; what several checks look at is made one time."""
        if repr(technique) not in self.trials:
            self.trials[repr(technique)] = self._try(technique)
        return self.trials[repr(technique)]

    def _try(self, technique: Technique) -> Trial:
        model, job = self.model_for(technique), self.job("trial", teacher=self.parent)
        watched = {"model": model.folder, "teacher": self.parent.folder, "data": self.data.folder}
        digests = {name: sha256_folder(folder) for name, folder in watched.items()}
        with tempfile.TemporaryDirectory(dir=self.base) as elsewhere, contextlib.chdir(elsewhere):
            before = _files(self.base)
            made = technique.apply(model, self.data, job)
            strays = sorted(p for p in _files(self.base) - before if not p.is_relative_to(job.folder))
        altered = [name for name, folder in watched.items() if sha256_folder(folder) != digests[name]]
        return Trial(job, made, tuple(altered), tuple(strays))

    def sample(self, frame: pd.DataFrame, number: int = 0) -> Sample:
        """Return rows as a monitor sees them through a sound model."""
        probabilities = probabilities_of(frame)
        return Sample(
            schema=self.schema,
            frame=frame,
            number=number,
            inputs=self.schema.encode(frame),
            probabilities=probabilities,
            embedding=probabilities[:, :2].copy(),
            labels=self.schema.encode_labels(frame),
        )

    @functools.cached_property
    def reference(self) -> Sample:
        """Held-back rows."""
        return self.sample(quiet_frame(REFERENCE_ROWS, SEED + 1))


def _installed_runtimes() -> Iterator[Runtime]:
    for name in discover.installed("runtimes"):
        with contextlib.suppress(PluginError):  # of one whose library is not installed
            runtime: Runtime = discover.build("runtimes", name, {}, "targets")
            yield runtime


@functools.cache
def shared_material() -> Material:
    """Return the material that all checks of this process share: its model is trained once."""
    return Material()


@dataclass(frozen=True)
class Check:
    """One promise of a contract, bound to a plugin; calling it raises ``AssertionError`` when it is broken.

    Parameters
    ----------
    name
        Of the promise, for a test's id.
    loses
        What users lose when it is broken.
    """

    name: str
    loses: str
    run: Callable[[], None] = field(repr=False)

    def __call__(self) -> None:
        """Check it."""
        self.run()

    @property
    def __name__(self) -> str:
        return self.name


def yield_checks(kind: Checked, plugin: Any, material: Material | None = None) -> Iterator[Check]:
    """Yield the checks that a plugin must pass.

    Parameters
    ----------
    kind
        What it is: ``techniques``, ``monitors``, ``runtimes``, ``sources`` or ``registries``.
    plugin
        An object, with the settings that are to be tried. A registry is an empty one; a source has
        rows in window 1 at least.
    material
        Instead of the small table and network that the checks bring.

    Raises
    ------
    SettingsError
        For a kind without checks.

    Examples
    --------
    >>> from trimtab.monitor import Never
    >>> for check in yield_checks("monitors", Never()):
    ...     check()
    """
    checks = CHECKS.get(kind)
    if checks is None:
        raise SettingsError(f"no checks for {kind!r}; there are some for {', '.join(CHECKS)}.{nearest(kind, CHECKS)}")
    for function in checks:
        bound = functools.partial(function, plugin, material or shared_material())
        yield Check(function.__name__, inspect.getdoc(function) or "", bound)


def _require(holds: bool, message: str) -> None:
    if not holds:
        raise AssertionError(message)


def _says_what_it_is(plugin: Any, attributes: Mapping[str, type]) -> None:
    _require(dataclasses.is_dataclass(plugin), f"{type(plugin).__name__} is not a dataclass; its fields are settings")
    _require(
        plugin.__dataclass_params__.frozen, f"{type(plugin).__name__} is not frozen; write @dataclass(frozen=True)"
    )
    _has(plugin, attributes)
    for name in attributes:
        _require(
            name not in {f.name for f in dataclasses.fields(plugin)},
            f"{type(plugin).__name__}.{name} is a setting; annotate it as ClassVar",
        )


def _has(plugin: Any, attributes: Mapping[str, type]) -> None:
    for name, wanted in attributes.items():
        value = getattr(type(plugin), name, None)
        _require(
            isinstance(value, wanted),
            f"{type(plugin).__name__}.{name} is {value!r}; the contract asks for a class attribute ({wanted.__name__})",
        )


def _name(plugin: Any) -> str:
    return str(plugin.about.name if isinstance(getattr(plugin, "about", None), About) else plugin.name)


def _refuses_unknown(plugin: Any) -> None:
    try:
        _remade(plugin, {"no_such_setting": 1})
    except SettingsError as error:
        _require("no_such_setting" in str(error), f"the refusal does not name the setting: {error}")
    else:
        _require(False, f"{_name(plugin)} takes a setting 'no_such_setting' in silence")


def _remade(plugin: Any, settings: Mapping[str, Any]) -> Any:
    return discover.make(type(plugin), _name(plugin), settings, _name(plugin))


# techniques


def check_technique_says_what_it_is(technique: Technique, material: Material) -> None:
    """The search cannot place it in a recipe, and a wrong recipe is found only after an hour of training."""
    _says_what_it_is(technique, {"about": About})
    effort, fields = technique.about.effort, {f.name for f in dataclasses.fields(technique)}  # type: ignore[arg-type]
    _require(effort is None or effort in fields, f"{technique.about.name}.about.effort {effort!r} is no setting of it")


def check_settings_survive_yaml(technique: Technique, material: Material) -> None:
    """What a version's recipe.json says is not how it was built, and nobody can build it again."""
    step = Step(technique=technique.about.name, settings=dataclasses.asdict(technique))  # type: ignore[call-overload]
    recipe = Recipe(steps=(step,))
    back = Recipe.model_validate(yaml.safe_load(yaml.safe_dump(recipe.model_dump(mode="json"))))
    again = _remade(technique, back.steps[0].settings)
    _require(again == technique, f"{technique} came back from YAML as {again}")


def check_technique_refuses_unknown_settings(technique: Technique, material: Material) -> None:
    """A misspelt setting is silently without effect, and the round tries something else than was asked."""
    _refuses_unknown(technique)


def check_leaves_its_input_alone(technique: Technique, material: Material) -> None:
    """The champion is altered while it serves, and every later candidate is cut from a spoilt parent."""
    altered = material.trial(technique).altered
    _require(not altered, f"{technique.about.name} altered the files of its {' and '.join(altered)}")


def check_writes_only_into_its_folder(technique: Technique, material: Material) -> None:
    """Two rounds on one machine overwrite each other, and the disk fills with files that nobody removes."""
    strays = material.trial(technique).strays
    _require(not strays, f"{technique.about.name} wrote outside job.folder: {[str(p) for p in strays]}")


def _files(folder: Path) -> set[Path]:
    return {p for p in folder.rglob("*") if p.is_file()}


def check_same_seed_same_model(technique: Technique, material: Material) -> None:
    """A crashed round that resumes gets another model, and a result cannot be repeated."""
    first, second = material.trial(technique).model, material.apply(technique)
    _require(
        first.digest == second.digest,
        f"{technique.about.name} with seed {SEED} gave {first.digest[:12]} and then {second.digest[:12]}; "
        "draw from job.seed alone, and write no instant or path into the files",
    )


def check_describes_what_it_wrote(technique: Technique, material: Material) -> None:
    """The next step loads another model than this one gave."""
    job, model = material.trial(technique).job, material.trial(technique).model
    _require(
        model.folder == job.folder,
        f"{technique.about.name} returned folder {model.folder}, not job.folder {job.folder}",
    )
    _require(
        model.format == technique.about.gives,
        f"{technique.about.name} gives {technique.about.gives}, returned {model.format}",
    )
    _require(
        model == Model.at(job.folder, model.format),
        f"{technique.about.name} returned a digest that its files do not have",
    )
    _require(model.size_bytes > 0, f"{technique.about.name} wrote nothing that serves")


def check_its_model_predicts(technique: Technique, material: Material) -> None:
    """Every candidate of a round that uses it fails when it is measured, after all the time it took."""
    model = material.trial(technique).model
    if model.format not in material.serving.takes and model.format == material.converter.about.takes:
        model = material.converter.apply(model, material.data, material.job("converted", teacher=material.parent))
    _predicts(material.runtime_for(model.format).load(model), material)


def _predicts(session: Session, material: Material) -> npt.NDArray[np.float32]:
    rows, classes = material.rows, len(material.schema.classes)
    probabilities = session.predict(rows.inputs)
    _require(
        probabilities.shape == (len(rows), classes) and probabilities.dtype == np.float32,
        f"probabilities are {probabilities.dtype} {list(probabilities.shape)}, not float32 [{len(rows)}, {classes}]",
    )
    _require(bool(np.isfinite(probabilities).all()), "probabilities are not all finite")
    off = float(np.abs(probabilities.sum(axis=1) - 1).max())
    _require(off < 1e-3, f"probabilities of a row sum to 1 give or take {off:.3g}; the contract allows 0.001")
    return probabilities


def check_names_missing_data(technique: Technique, material: Material) -> None:
    """A round without labels ends in a stack trace that tells nobody to wait for labels."""
    if not technique.about.needs_data:
        return
    job = material.job("starved", teacher=material.parent)
    try:
        technique.apply(material.model_for(technique), material.no_data, job)
    except DataError as error:
        _require(bool(str(error)), f"{technique.about.name} raised a DataError without words")
    except Exception as error:  # whatever else it raises is the finding
        raise AssertionError(
            f"{technique.about.name} without a row raised {error!r}; raise DataError with the way out"
        ) from error
    else:
        _require(False, f"{technique.about.name} says needs_data, and made a model from no row")


# monitors


def check_monitor_says_what_it_is(monitor: Monitor, material: Material) -> None:
    """The loop asks it at the wrong time, or shares the false alarms wrongly."""
    _says_what_it_is(monitor, {"name": str, **dict.fromkeys(("guards", "needs_labels", "statistical"), bool)})


def check_monitor_refuses_unknown_settings(monitor: Monitor, material: Material) -> None:
    """A misspelt threshold is silently without effect, and drift passes unseen."""
    _refuses_unknown(monitor)


def check_quiet_window_is_quiet(monitor: Monitor, material: Material) -> None:
    """It wakes people, and retrains models, for nothing."""
    for number in (1, 2, 3):
        found = _look(monitor, material, quiet_frame(ROWS, SEED + 10 + number), number)
        _require(
            found.answer in (Answer.FINE, Answer.UNKNOWN),
            f"{monitor.name} says {found.answer} of rows drawn like the reference (alpha {ALPHA}): {found.reasons}",
        )


def _look(monitor: Monitor, material: Material, frame: pd.DataFrame, number: int = 4) -> Finding:
    return monitor.check(material.reference, material.sample(frame, number), ALPHA)


def check_same_window_same_finding(monitor: Monitor, material: Material) -> None:
    """A restarted loop decides otherwise than the one that was cut off, and no alarm can be explained later."""
    frame = quiet_frame(ROWS, SEED + 20)
    first, second = _look(monitor, material, frame), _look(monitor, material, frame)
    _require(first == second, f"{monitor.name} found {first} and then, in the same rows, {second}")


def check_finding_is_complete(monitor: Monitor, material: Material) -> None:
    """The journal cannot keep the finding, or keeps it under another monitor's name or window."""
    for frame in (quiet_frame(ROWS, SEED + 30), _damaged(quiet_frame(ROWS, SEED + 31))):
        found = _look(monitor, material, frame, number=9)
        _require(found.monitor == monitor.name, f"finding of {monitor.name} is signed {found.monitor!r}")
        _require(found.window == 9, f"finding about window 9 says window {found.window}")
        _require(isinstance(found.answer, Answer), f"answer {found.answer!r} is no Answer")
        _require(all(isinstance(r, str) and r for r in found.reasons), f"reasons {found.reasons!r} are not all text")
        alarms = found.answer in (Answer.BROKEN, Answer.WORSE, Answer.MOVED)
        _require(not alarms or bool(found.reasons), f"{monitor.name} says {found.answer} without a reason")
        _require(Finding.from_json(found.to_json()) == found, f"{found} does not survive JSON")


def _damaged(frame: pd.DataFrame) -> pd.DataFrame:
    return frame.assign(a=frame["a"] + 25.0, y=(frame[LABEL] + 1) % len(CENTRES))


def check_scores_are_numbers(monitor: Monitor, material: Material) -> None:
    """Dashboards show gaps, and the journal drops the score that would have explained the alarm."""
    for frame in (quiet_frame(ROWS, SEED + 40), _damaged(quiet_frame(ROWS, SEED + 41))):
        for name, value in _look(monitor, material, frame).scores.items():
            _require(isinstance(name, str) and bool(name), f"score {name!r} of {monitor.name} has no name")
            _require(math.isfinite(value), f"score {name!r} of {monitor.name} is {value}")


def check_few_rows_are_no_alarm(monitor: Monitor, material: Material) -> None:
    """A night without traffic stops the loop, or starts a round on no rows."""
    frame = quiet_frame(ROWS, SEED + 50)
    for rows in (0, 1, 2, 3):
        found = _look(monitor, material, frame.head(rows))
        allowed = {Answer.FINE, Answer.UNKNOWN, *([Answer.BROKEN] if monitor.guards else [])}
        _require(found.answer in allowed, f"{monitor.name} says {found.answer} of {rows} rows: {found.reasons}")
    for labels in (None, np.full(ROWS, -1, dtype=np.int64)):
        blind = dataclasses.replace(material.sample(frame, 4), labels=labels, probabilities=None, embedding=None)
        found = monitor.check(material.reference, blind, ALPHA)
        _require(
            found.answer in (Answer.FINE, Answer.UNKNOWN),
            f"{monitor.name} says {found.answer} without labels and output: {found.reasons}",
        )


def check_leaves_its_samples_alone(monitor: Monitor, material: Material) -> None:
    """The monitors after it see other rows than the ones that production saw."""
    reference, current = (material.sample(quiet_frame(ROWS, SEED + 60 + i), i) for i in range(2))
    before = [_print(reference), _print(current)]
    monitor.check(reference, current, ALPHA)
    _require([_print(reference), _print(current)] == before, f"{monitor.name} altered the rows that it looked at")


def _print(sample: Sample) -> tuple[object, ...]:
    arrays = [*sample.inputs.values(), sample.probabilities, sample.embedding, sample.labels]
    frame = sample.frame
    values = tuple(pd.util.hash_pandas_object(frame, index=True).tolist())
    return (tuple(frame.columns), values, *(a.tobytes() for a in arrays if a is not None))


def check_report_is_where_it_says(monitor: Monitor, material: Material) -> None:
    """An alarm links to a page that is not there."""
    with tempfile.TemporaryDirectory(dir=material.base) as folder:
        path = Path(folder) / "page.html"
        current = material.sample(_damaged(quiet_frame(ROWS, SEED + 70)), 5)
        wrote = monitor.report(material.reference, current, path)
        _require(isinstance(wrote, bool), f"{monitor.name}.report returned {wrote!r}; True or False is asked for")
        _require(wrote == path.is_file(), f"{monitor.name}.report returned {wrote}, and the page exists: {not wrote}")


# runtimes


def check_runtime_says_what_it_is(runtime: Runtime, material: Material) -> None:
    """No recipe ends in a format that it takes."""
    _has(runtime, {"name": str, "takes": tuple})


def check_runtime_predicts(runtime: Runtime, material: Material) -> None:
    """Quality and speed of every candidate are measured on something else than what production gets."""
    session = _loaded(runtime, material)
    whole = _predicts(session, material)
    parts = session.run(material.rows.inputs)
    _require("probabilities" in parts, f"run gives {sorted(parts)}; the contract asks for 'probabilities'")
    _require(np.allclose(parts["probabilities"], whole, atol=1e-5), "run and predict give different probabilities")


def _loaded(runtime: Runtime, material: Material, batch: int = 1) -> Session:
    return runtime.load(material.served(runtime), batch=batch)


def check_runtime_does_not_mix_rows(runtime: Runtime, material: Material) -> None:
    """A prediction depends on whose request came at the same moment, or on the batch that was asked for."""
    whole = _loaded(runtime, material).predict(material.rows.inputs)
    session = _loaded(runtime, material, batch=2)
    for rows in (1, 2, 3):
        few = session.predict({k: v[:rows] for k, v in material.rows.inputs.items()})
        _require(
            few.shape == whole[:rows].shape and np.allclose(few, whole[:rows], atol=1e-4),
            f"rows in a call of {rows}, loaded for calls of 2, are predicted otherwise than in one of {len(whole)}",
        )


def check_runtime_gives_answers_that_stay(runtime: Runtime, material: Material) -> None:
    """An answer changes in its reader's hands when the next request comes."""
    session = _loaded(runtime, material)
    first, second = ({k: v[row : row + 1] for k, v in material.rows.inputs.items()} for row in (0, 1))
    for ask in (session.predict, lambda inputs: session.run(inputs)["probabilities"]):
        answer = ask(first)
        kept = answer.copy()
        ask(second)
        _require(np.array_equal(answer, kept), f"{runtime.name} overwrites an answer with the next one")


def check_runtime_names_a_damaged_file(runtime: Runtime, material: Material) -> None:
    """A damaged champion is not recognised as one, and the loop does not fall back to the version before."""
    folder, model = material.job("damaged").folder, material.served(runtime)
    for path in model.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    try:
        runtime.load(Model.at(folder, model.format))
    except ArtifactError:
        return
    except Exception as error:  # whatever else it raises is the finding
        raise AssertionError(f"{runtime.name} of a truncated file raised {error!r}; raise ArtifactError") from error
    _require(False, f"{runtime.name} loads a file that was cut to a third")


# sources


def check_windows_join(source: Source, material: Material) -> None:
    """Rows between two windows are never looked at, or are looked at twice."""
    start = source.begins()
    last = source.last(start)
    _require(last >= 1, f"last() is {last}: give the source rows in window 1 at least")
    windows = [source.read(number, start) for number in range(min(last, 20) + 1)]
    for number, window in enumerate(windows):
        _require(window.number == number, f"read({number}) gave window {window.number}")
    for before, after in itertools.pairwise(windows):
        _require(
            before.span.end == after.span.start,
            f"window {before.number} ends at {before.span.end}, the next begins at {after.span.start}",
        )
    _require(bool(len(source.read(last, start).frame)), f"window {last} is said to hold rows, and holds none")
    _require(not len(source.read(last + 1, start).frame), f"window {last + 1} lies after last() and holds rows")


def check_reading_again_gives_the_same(source: Source, material: Material) -> None:
    """A round that resumes trains on other rows than those that were sealed."""
    start = source.begins()
    first, second = source.read(1, start), source.read(1, start)
    _require(first.span == second.span and first.frame.equals(second.frame), "window 1 read twice gives two windows")


def check_windows_close_in_order(source: Source, material: Material) -> None:
    """A window is judged before its rows have come."""
    start = source.begins()
    closes = [source.closes(number, start) for number in (1, 2, 3)]
    timed = [at for at in closes if at is not None]
    _require(not timed or (len(timed) == 3 and sorted(set(timed)) == timed), f"windows 1, 2, 3 close at {closes}")


# registries


def check_writes_happen_once(registry: Registry, material: Material) -> None:
    """After a crash the same version is registered twice, and nobody knows which one serves."""
    registry.ready()
    made = [_register(registry, material, "once") for _ in range(2)]
    _require(made[0].number == made[1].number, f"one operation made versions {made[0].number} and {made[1].number}")
    numbers = [v.number for v in registry.versions()]
    _require(numbers.count(made[0].number) == 1, f"versions() are {numbers}")


def _register(registry: Registry, material: Material, operation: str) -> Any:
    package = material.base / f"package-{operation}"
    (package / "parent").mkdir(parents=True, exist_ok=True)
    for name in ("schema.json", "parent/spec.json"):
        (package / name).write_text(f'{{"operation": "{operation}"}}')
    run = registry.log_round(RoundLog(f"{operation}:round", operation, {"trimtab.trigger": "worse"}, {"seed": "1"}))
    example = material.rows.take(np.arange(2)).inputs
    log = CandidateLog(
        operation=f"{operation}:candidate",
        name=operation,
        tags={},
        params={"recipe": "export"},
        metrics={"quality": 0.5},
        model=material.exported,
        example=example,
        outputs=material.serving.load(material.exported).run(example),
    )
    candidate = registry.log_candidate(run, log)
    version = registry.create_version(candidate, operation, package, {"trimtab.epoch": "1"}, "a version of the checks")
    registry.close_round(run, "promoted", {"trimtab.outcome": "promoted"})
    return version


def check_package_comes_back(registry: Registry, material: Material) -> None:
    """The champion cannot be loaded on another machine, or is another one there."""
    version = _register(registry, material, "package")
    folder = registry.fetch(version.number, material.job("fetched").folder / "package")
    found = {p.relative_to(folder).as_posix() for p in _files(folder)}
    _require(
        found == set(version.digests), f"the package came back with {sorted(found)}, not {sorted(version.digests)}"
    )
    with contextlib.suppress(ArtifactError):
        registry.fetch(version.number + 1000, material.job("unknown").folder / "package")
        _require(False, "a version that does not exist was fetched")


def check_alias_follows(registry: Registry, material: Material) -> None:
    """Serving reads the alias and loads yesterday's champion."""
    first, second = (_register(registry, material, f"alias-{i}").number for i in (1, 2))
    for number in (first, second, second, first):
        registry.set_alias(CHAMPION, number)
        _require(registry.alias(CHAMPION) == number, f"alias was set to {number} and is {registry.alias(CHAMPION)}")
    registry.set_alias(CHAMPION, None)
    registry.set_alias(CHAMPION, None)
    _require(registry.alias(CHAMPION) is None, "an alias that was removed is still there")


def check_tags_are_added(registry: Registry, material: Material) -> None:
    """A journal that was lost cannot be rebuilt from the registry."""
    version = _register(registry, material, "tags")
    registry.tag_version(version.number, {"trimtab.more": "2"})
    tags = next(v.tags for v in registry.versions() if v.number == version.number)
    _require(
        tags.get("trimtab.epoch") == "1" and tags.get("trimtab.more") == "2",
        f"tags trimtab.epoch=1 and trimtab.more=2 were set; the version has {dict(tags)}",
    )


CHECKS: Mapping[str, tuple[Callable[[Any, Material], None], ...]] = {
    "techniques": (
        check_technique_says_what_it_is,
        check_settings_survive_yaml,
        check_technique_refuses_unknown_settings,
        check_leaves_its_input_alone,
        check_writes_only_into_its_folder,
        check_same_seed_same_model,
        check_describes_what_it_wrote,
        check_its_model_predicts,
        check_names_missing_data,
    ),
    "monitors": (
        check_monitor_says_what_it_is,
        check_monitor_refuses_unknown_settings,
        check_quiet_window_is_quiet,
        check_same_window_same_finding,
        check_finding_is_complete,
        check_scores_are_numbers,
        check_few_rows_are_no_alarm,
        check_leaves_its_samples_alone,
        check_report_is_where_it_says,
    ),
    "runtimes": (
        check_runtime_says_what_it_is,
        check_runtime_predicts,
        check_runtime_does_not_mix_rows,
        check_runtime_gives_answers_that_stay,
        check_runtime_names_a_damaged_file,
    ),
    "sources": (check_windows_join, check_reading_again_gives_the_same, check_windows_close_in_order),
    "registries": (check_writes_happen_once, check_package_comes_back, check_alias_follows, check_tags_are_added),
}
