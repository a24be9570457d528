"""The checks for plugin authors: our own plugins pass them, and each catches the plugin that breaks its promise."""

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest

from tests import fakes
from tests.materials import material_for
from trimtab import discover
from trimtab.artifact import ONNX, Model, write_json
from trimtab.data import Data, Role
from trimtab.errors import DataError, OutOfTimeError, SettingsError
from trimtab.fileregistry import FileRegistry
from trimtab.monitor import Always, Answer, Case, Figure, Finding, Summary
from trimtab.registry import MemoryRegistry
from trimtab.technique import About, Job
from trimtab.testing import CHECKS, Check, Checked, Material, quiet_frame, yield_checks
from trimtab.window import Arrays, Window

NO_SETTINGS: dict[str, Any] = {}


def ours(kind: discover.Kind) -> list[str]:
    return sorted(n for n, point in discover.installed(kind).items() if point.value.startswith("trimtab"))


def cases() -> Iterator[Any]:
    for kind in ("techniques", "monitors", "runtimes"):
        for name in ours(kind):
            if name != "always":
                for number, check in enumerate(CHECKS[kind]):
                    yield pytest.param(kind, name, number, id=f"{name}:{check.__name__}")


@pytest.mark.parametrize(("kind", "name", "number"), list(cases()))
def test_our_own_plugins_keep_every_promise(kind: Checked, name: str, number: int) -> None:
    plugin = discover.build(kind, name, NO_SETTINGS, name)
    list(yield_checks(kind, plugin, material_for(name)))[number]()


@pytest.mark.parametrize("registry", [MemoryRegistry, FileRegistry])
def test_the_registries_without_a_server_keep_every_promise(
    tmp_path: Path, registry: type[MemoryRegistry | FileRegistry]
) -> None:
    for check in yield_checks("registries", registry(tmp_path)):
        check()


@pytest.mark.parametrize("kind", ["csv", "parquet"])
@pytest.mark.parametrize("every", [50, "1h"])
def test_our_own_sources_keep_every_promise(tmp_path: Path, kind: str, every: int | str) -> None:
    frame = quiet_frame(230, seed=3).assign(at=np.datetime64("2026-01-01") + np.arange(230) * np.timedelta64(1, "m"))
    path = tmp_path / f"rows.{kind}"
    frame.to_csv(path, index=False) if kind == "csv" else frame.to_parquet(path)
    settings = {"path": str(path), "every": every, "timestamp": None if every == 50 else "at"}
    for check in yield_checks("sources", discover.build("sources", kind, settings, "source")):
        check()


def test_a_kind_without_checks_is_told() -> None:
    with pytest.raises(SettingsError, match=r"no checks for 'technique'; .* Did you mean 'techniques'\?"):
        list(yield_checks("technique", fakes.Drop()))  # type: ignore[arg-type]


def test_every_check_says_what_is_lost() -> None:
    for kind in CHECKS:
        for check in yield_checks(kind, None):  # type: ignore[arg-type]
            assert isinstance(check, Check)
            assert check.loses.endswith(".")
            assert "\n" not in check.loses
            assert check.__name__.startswith("check_")


# a stranger's plugins, with a material of the stranger's own


@pytest.fixture(scope="module")
def material() -> Material:
    return Material(trainer=fakes.CentroidTrainer(), runtime=fakes.CentroidRuntime(), export=fakes.Convert())


def failures(kind: Checked, plugin: Any, material: Material) -> set[str]:
    """Names of the promises that are broken."""
    broken = set()
    for check in yield_checks(kind, plugin, material):
        try:
            check()
        except AssertionError:
            broken.add(check.name)
    return broken


@pytest.mark.parametrize("technique", [fakes.Recentre(), fakes.Drop(2), fakes.Mimic(), fakes.Convert(), fakes.Spoil()])
def test_a_strangers_technique_keeps_every_promise(technique: Any, material: Material) -> None:
    assert failures("techniques", technique, material) == set()


def test_a_strangers_runtime_and_monitors_keep_every_promise(material: Material) -> None:
    assert failures("runtimes", fakes.CentroidRuntime(), material) == set()
    for monitor in (fakes.Means(), fakes.Accuracy()):
        assert failures("monitors", monitor, material) == set()


def test_a_strangers_source_keeps_every_promise(material: Material) -> None:
    source = fakes.Frames(fakes.stream("checks", quiet_frame(250, 1)), every=60)
    assert failures("sources", source, material) == set()


@dataclass(frozen=True)
class Base(fakes.Convert):
    """Converts; each subclass breaks one promise."""

    about: ClassVar[About] = dataclasses.replace(fakes.Convert.about, name="breaks")


@dataclass(frozen=True)
class Alters(Base):
    def apply(self, model: Model, data: Data, job: Job) -> Model:
        made = super().apply(model, data, job)
        (model.folder / "seen").touch()
        return made


@dataclass(frozen=True)
class Litters(Base):
    def apply(self, model: Model, data: Data, job: Job) -> Model:
        Path("litter.txt").write_text("here")
        return super().apply(model, data, job)


@dataclass(frozen=True)
class Dices(Base):
    def apply(self, model: Model, data: Data, job: Job) -> Model:
        write_json(job.folder / "facts.json", {"luck": float(np.random.default_rng().normal())})
        return super().apply(model, data, job)


@dataclass(frozen=True)
class Lies(Base):
    def apply(self, model: Model, data: Data, job: Job) -> Model:
        return dataclasses.replace(super().apply(model, data, job), digest="0" * 64)


@dataclass(frozen=True)
class Starves(Base):
    about: ClassVar[About] = dataclasses.replace(Base.about, needs_data=True)

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        int(data.rows(Role.TRAIN).labels.max())
        return super().apply(model, data, job)


@dataclass(frozen=True)
class Careless(Base):
    about: ClassVar[About] = dataclasses.replace(Base.about, needs_data=True)


@dataclass(frozen=True)
class Counts(Base):
    about: ClassVar[About] = dataclasses.replace(Base.about, needs_data=True)

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        if not len(data.rows(Role.TRAIN)):
            raise DataError("no row; wait for a window")
        np.bincount(data.rows(Role.TRAIN).labels)
        return super().apply(model, data, job)


@dataclass(frozen=True)
class Tireless(Base):
    epochs: int = 1

    about: ClassVar[About] = dataclasses.replace(Base.about, effort="epochs")


@dataclass(frozen=True)
class Shapeless(fakes.Drop):
    """Compresses and trains, and cannot do the one without the other."""

    epochs: int = 1

    about: ClassVar[About] = dataclasses.replace(fakes.Drop.about, name="breaks", effort="epochs")

    def __post_init__(self) -> None:
        if self.epochs < 1:
            raise ValueError(f"breaks.epochs must be at least 1, got {self.epochs}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        if job.deadline is not None and time.monotonic() > job.deadline:
            raise OutOfTimeError("too late")
        return super().apply(model, data, job)


@dataclass(frozen=True)
class Sums(Base):
    """Its model's probabilities do not sum to 1."""

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        return fakes.save(job.folder, ONNX, np.full((3, 4), 1e200), 9)


@dataclass
class Loose:
    """Not frozen, with flags that are missing or settings."""

    needs_data: bool = False

    about: ClassVar[About] = About(name="loose", takes="torch", gives="onnx")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        return fakes.Convert().apply(model, data, job)


@dataclass(frozen=True)
class Forgets(Base):
    """A setting that does not come back from YAML as it was."""

    scale: Any = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "scale", (self.scale, 1))


@pytest.mark.filterwarnings("ignore:.*encountered:RuntimeWarning")
@pytest.mark.parametrize(
    ("technique", "caught"),
    [
        (Alters, {"check_leaves_its_input_alone", "check_writes_only_into_its_folder"}),
        (Litters, {"check_writes_only_into_its_folder"}),
        (Dices, {"check_same_seed_same_model"}),
        (Lies, {"check_describes_what_it_wrote"}),
        (Starves, {"check_names_missing_data"}),
        (Careless, {"check_names_missing_data"}),
        (Counts, {"check_works_without_labels"}),
        (Tireless, {"check_gives_up_in_time"}),
        (Shapeless, {"check_shows_its_shape_without_effort"}),
        (Sums, {"check_its_model_predicts"}),
        (Forgets, {"check_settings_survive_yaml"}),
    ],
)
def test_a_technique_that_breaks_a_promise_is_caught(technique: Callable[[], Any], caught: set[str]) -> None:
    own = Material(trainer=fakes.CentroidTrainer(), runtime=fakes.CentroidRuntime(), export=fakes.Convert())
    assert failures("techniques", technique(), own) == caught


@dataclass(frozen=True)
class Watches(fakes.Means):
    """Looks at means; each subclass breaks one promise."""


@dataclass(frozen=True)
class Spoils(Watches):
    def check(self, case: Case) -> Finding:
        case.current.frame["seen"] = True
        return super().check(case)


@dataclass(frozen=True)
class Nervous(Watches):
    few: int = 0

    def check(self, case: Case) -> Finding:
        if len(case.current) < 3:
            return Finding(self.name, case.current.number, Answer.MOVED, ("so few",))
        return super().check(case)


@dataclass(frozen=True)
class Silent(Watches):
    def check(self, case: Case) -> Finding:
        return dataclasses.replace(super().check(case), reasons=(), monitor="other")


@dataclass(frozen=True)
class Infinite(Watches):
    def check(self, case: Case) -> Finding:
        found = super().check(case)
        return dataclasses.replace(found, scores={"a": float("inf")})


@dataclass(frozen=True)
class Promises(Watches):
    def keep(self, case: Case) -> Summary:
        return {"counts": np.array([3.0, 4.0])}

    def figures(self, fitted: Summary, kept: Summary) -> list[Figure]:
        return [Figure("a", kept["counts"], kept["counts"], edges=np.arange(3.0))]


@dataclass(frozen=True)
class Trusting(Watches):
    def check(self, case: Case) -> Finding:
        case.current.frame[case.current.schema.names[0]].astype(float)
        return super().check(case)


@dataclass(frozen=True)
class Fickle(Watches):
    seen: ClassVar[list[int]] = []

    def check(self, case: Case) -> Finding:
        self.seen.append(1)
        return dataclasses.replace(super().check(case), scores={"a": float(len(self.seen))})


@pytest.mark.parametrize(
    ("monitor", "caught"),
    [
        (Spoils(), {"check_leaves_its_samples_alone"}),
        (Nervous(), {"check_few_rows_are_no_alarm"}),
        (Trusting(), {"check_bears_broken_rows"}),
        (Silent(), {"check_finding_is_complete"}),
        (Infinite(), {"check_scores_are_numbers", "check_finding_is_complete"}),
        (Promises(), {"check_figures_come_from_what_is_stored"}),
        (
            Fickle(),
            {"check_same_window_same_finding", "check_batches_add_up", "check_what_it_keeps_is_shown_again"},
        ),
        (Always(), {"check_quiet_window_is_quiet", "check_few_rows_are_no_alarm"}),
    ],
)
def test_a_monitor_that_breaks_a_promise_is_caught(monitor: Any, caught: set[str], material: Material) -> None:
    assert failures("monitors", monitor, material) == caught


def test_a_technique_that_is_no_frozen_dataclass_is_caught(material: Material) -> None:
    assert failures("techniques", Loose(), material) == {"check_technique_says_what_it_is"}


class Mixes(fakes.CentroidRuntime):
    """A prediction depends on the batch, and a damaged file raises whatever it raises."""

    def load(self, model: Model, threads: int = 1, batch: int = 1) -> Any:
        text = (model.folder / "model.onnx").read_text()
        return MixingSession(np.asarray(json.loads(text)["centroids"]))


class MixingSession(fakes.CentroidSession):
    def predict(self, inputs: Arrays) -> Any:
        whole = super().predict(inputs)
        return np.roll(whole, 1, axis=0) if len(whole) > 1 else whole[:, ::-1]


def test_a_runtime_that_breaks_a_promise_is_caught(material: Material) -> None:
    assert failures("runtimes", Mixes(), material) == {
        "check_runtime_does_not_mix_rows",
        "check_runtime_names_a_damaged_file",
    }


class Twice(MemoryRegistry):
    """Forgets what it did."""

    def create_version(self, candidate_id: str, operation: str, *args: Any, **kwargs: Any) -> Any:
        return super().create_version(candidate_id, f"{operation}-{len(self.versions())}", *args, **kwargs)

    def set_alias(self, name: str, number: int | None) -> None:
        self.aliases.setdefault(name, number or 0)

    def tag_version(self, number: int, tags: Any) -> None:
        self._versions = [dataclasses.replace(v, tags=tags) for v in self._versions]


def test_a_registry_that_breaks_promises_is_caught(material: Material, tmp_path: Path) -> None:
    assert failures("registries", Twice(tmp_path), material) == {
        "check_writes_happen_once",
        "check_alias_follows",
        "check_tags_are_added",
    }


@dataclass(frozen=True)
class Skips(fakes.Frames):
    def read(self, number: int, start: int) -> Window:
        return super().read(number * 2 if number < 3 else number, start)


def test_a_source_that_breaks_a_promise_is_caught(material: Material) -> None:
    source = Skips(fakes.stream("skips", quiet_frame(250, 1)), every=60)
    assert failures("sources", source, material) == {"check_windows_join"}
