"""The project file, typed: defaults < YAML file < ``TRIMTAB_*`` environment < ``--set`` on the command line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as UnreadableVariable

from trimtab.data import Role
from trimtab.errors import SettingsError, nearest
from trimtab.gate import Gate
from trimtab.recipe import Recipe
from trimtab.runtime import CHAMPION, Target
from trimtab.search import Halving
from trimtab.trigger import Trigger
from trimtab.window import Feature

__all__ = ["Project", "count_of"]

ENVIRONMENT_PREFIX = "TRIMTAB_"


def count_of(value: object, unit: str) -> int:
    """Read ``"last 8 windows"``, ``"1 window"`` or a bare number as a count of ``unit``.

    Examples
    --------
    >>> count_of("last 8 windows", "window"), count_of(3, "window")
    (8, 3)
    """
    match = re.fullmatch(rf"(?:last\s+)?(\d+)(?:\s+{unit}s?)?", str(value).strip())
    if match is None:
        raise ValueError(f"{value!r} is not a number of {unit}s, such as '4 {unit}s'")
    return int(match.group(1))


def _windows(value: object) -> int:
    return count_of(value, "window")


def _every(value: object) -> object:
    match = re.fullmatch(r"(\d+)\s+rows?", str(value).strip())
    return int(match.group(1)) if match else value


def _named(value: object) -> object:
    if isinstance(value, str):
        return value
    if isinstance(value, Mapping) and len(value) == 1 and all(isinstance(v, Mapping | None) for v in value.values()):
        return value
    raise ValueError("it is a name, or one name with a mapping of its settings, such as finetune: {epochs: 3}")


Windows = Annotated[int, BeforeValidator(_windows), Field(ge=0)]


class Section(BaseModel):
    """A part of the project file that refuses what it does not know."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SourceSettings(Section):
    """Where production rows come from.

    Parameters
    ----------
    kind
        Name of an installed source (``csv``, ``parquet``).
    path
        File or glob, relative to the working folder.
    timestamp, label, prediction, id
        Names of columns; the label may be missing or late.
    """

    kind: str = "parquet"
    path: str
    timestamp: str | None = None
    label: str | None = None
    prediction: str | None = None
    id: str | None = None


class WindowSettings(Section):
    """How the stream is cut.

    Parameters
    ----------
    every
        Length of a window: a time (``7d``, ``12h``) or a number of rows (``1344 rows``).
    start
        Instant or row at which window 1 begins; rows before it train the first champion.
        Without it that is one window after the first row.
    label_delay
        Windows that pass until a window's labels are used. Labels that are missing by then count
        whenever they come.
    """

    every: Annotated[str | int, BeforeValidator(_every)]
    start: str | int | None = None
    label_delay: Windows = 0

    @field_validator("start", mode="before")
    @classmethod
    def _dates_are_text(cls, value: object) -> object:
        return value.isoformat() if hasattr(value, "isoformat") else value


class Split(Section):
    """Shares of the groups in each role; they sum to 1."""

    train: float = Field(default=0.6, gt=0, lt=1)
    calibration: float = Field(default=0.1, gt=0, lt=1)
    search: float = Field(default=0.1, gt=0, lt=1)
    judge: float = Field(default=0.2, gt=0, lt=1)

    @model_validator(mode="after")
    def _sums_to_one(self) -> Split:
        total = sum(self.shares.values())
        if abs(total - 1) > 1e-6:
            raise ValueError(
                f"the shares of train, calibration, search and judge must sum to 1, they sum to {total:.3f}"
            )
        return self

    @property
    def shares(self) -> dict[Role, float]:
        """Share by role."""
        return {
            Role.TRAIN: self.train,
            Role.CALIBRATION: self.calibration,
            Role.SEARCH: self.search,
            Role.JUDGE: self.judge,
        }


class Training(Section):
    """Which windows a round trains on, as ``last 4 windows``, ``all``, ``decay 4 windows`` or ``since change``.

    Parameters
    ----------
    rule
        ``last``: the newest. ``all``: every one. ``decay``: every one, but of windows older than the
        newest a half of the training rows, of windows twice as old a quarter, and so on. ``since
        change``: those since the data or the champion's quality last began to change.
    windows
        Number of newest windows: all that ``last`` takes, and the half-life of ``decay``. The other roles'
        rows come from the newest windows under every rule (``since change``: from those since it).

    Examples
    --------
    >>> Training.model_validate("decay 4 windows")
    Training(rule='decay', windows=4)
    """

    rule: Literal["last", "all", "decay", "since change"] = "last"
    windows: int = Field(default=8, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _reads_as_words(cls, value: object) -> object:
        if isinstance(value, Mapping | Training):
            return value
        words = " ".join(str(value).split())
        if words in ("all", "since change"):
            return {"rule": words}
        if words.startswith("decay "):
            return {"rule": "decay", "windows": max(1, count_of(words.removeprefix("decay "), "window"))}
        try:
            return {"windows": count_of(words, "window")}
        except ValueError as error:
            raise ValueError(f"{error}; or all, decay 4 windows, since change") from error

    def __str__(self) -> str:
        return self.rule if self.rule in ("all", "since change") else f"{self.rule} {self.windows} windows"


class DataSettings(Section):
    """Which labelled rows a round works on.

    Parameters
    ----------
    train
        Labelled windows to train on: ``last 4 windows``, ``all``, ``decay 4 windows`` or ``since change``.
    replay
        Share of the training rows drawn from windows that are not trained on, against forgetting.
    group
        Column that names what a row is a picture of; a group keeps one role for ever.
    block
        Number of consecutive rows that share a role, where neighbours in time resemble each other.
    split
        Shares of the roles.
    segments
        Columns of whose every value quality is judged by itself, where ``gate.max_segment_drop`` is set.
    golden
        File of rows (same columns) that must never be forgotten; ``gate.keep`` judges it.
    reference_rows
        Most held-back rows kept with a version as its drift reference.
    """

    train: Training = Training()
    replay: float = Field(default=0.2, ge=0, lt=1)
    group: str | None = None
    block: int | None = Field(default=None, ge=1)
    split: Split = Split()
    segments: tuple[str, ...] = ()
    golden: str | None = None
    reference_rows: int = Field(default=2000, ge=1)


class ModelSettings(Section):
    """How the first champion is built; everything beside these two is a setting of the trainer.

    Parameters
    ----------
    trainer
        Name of an installed trainer.
    metric
        What quality means: the name of an installed metric that fits the trainer's task (``accuracy``,
        ``f1``, ``rmse``, ...), or one name with a mapping of its settings.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    trainer: str = "torch.classifier"
    metric: Annotated[str | dict[str, dict[str, Any] | None], BeforeValidator(_named)] = "accuracy"

    @property
    def settings(self) -> dict[str, Any]:
        """The trainer's own settings."""
        return dict(self.model_extra or {})


class MonitorsSettings(Section):
    """Which monitors look at each window; a key with a monitor's name holds its settings.

    Parameters
    ----------
    use
        Names of installed monitors.
    false_alarms
        Probability that a quiet window alarms, shared among the statistical monitors.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    use: tuple[str, ...] = ("integrity", "evidently.drift", "performance")
    false_alarms: float = Field(default=0.05, gt=0, lt=1)

    @model_validator(mode="after")
    def _extras_are_monitors(self) -> MonitorsSettings:
        for key, value in (self.model_extra or {}).items():
            if key not in self.use:
                known = [*self.use, "use", "false_alarms"]
                raise ValueError(f"unknown key {key!r}; neither a setting nor a monitor in use.{nearest(key, known)}")
            if not isinstance(value, Mapping | None):
                raise ValueError(f"{key}: a monitor's settings are a mapping, such as {key}: {{}}; got {value!r}")
        return self

    def settings(self, name: str) -> dict[str, Any]:
        """Return the settings of one monitor."""
        return dict((self.model_extra or {}).get(name) or {})


class OptimizeSettings(Section):
    """What a round tries.

    Parameters
    ----------
    techniques
        Names, or one-key mappings of a name to its settings, in the order in which they apply. A
        list as a setting's value means: try each.
    candidates
        Most recipes that a round begins.
    minutes
        Time of a round: no step is begun after it, and a training that would outlast it gives up; what
        was built by then is judged.
    recipes
        Recipes to try first, written out.
    threads
        Threads that building may use.
    sampler
        Which recipes to draw from the space that the techniques and their ranges span: ``grid`` (every
        one, in order), ``random``, ``tpe`` or ``nsga2``, or one such name with its settings.
    halving
        Early stopping: train everything a little, and what does well longer.
    ladder
        Whether the round ends at the cheapest rung that passes the gate: what serves is adapted, at
        first without labels, then its last layer, then all of it, and only then is anything compressed
        anew.
    finalists
        Most candidates that are judged on each target: those that are best on the search rows. The gate's
        confidence is divided among all that are judged, so that fewer can be told apart more finely.
    """

    techniques: tuple[Annotated[str | dict[str, Any], BeforeValidator(_named)], ...] = (
        "finetune",
        {"prune.channel": {"ratio": [0.5, 0.7]}},
        "distill",
        "export",
        "quantize.static",
    )
    candidates: int = Field(default=12, ge=1)
    minutes: float = Field(default=20, gt=0)
    recipes: tuple[Recipe, ...] = ()
    threads: int = Field(default=1, ge=1)
    sampler: Annotated[str | dict[str, Any], BeforeValidator(_named)] = "grid"
    halving: Halving | None = None
    ladder: bool = False
    finalists: int = Field(default=4, ge=1)

    @property
    def sampler_settings(self) -> dict[str, dict[str, Any]]:
        """Settings of the sampler, by its name."""
        named = {self.sampler: None} if isinstance(self.sampler, str) else self.sampler
        return {name: dict(settings or {}) for name, settings in named.items()}

    @property
    def choices(self) -> list[tuple[str, dict[str, Any]]]:
        """Names and settings of the techniques, in order."""
        pairs: list[tuple[str, dict[str, Any]]] = []
        for item in self.techniques:
            pairs.extend([(item, {})] if isinstance(item, str) else [(k, dict(v or {})) for k, v in item.items()])
        return pairs


class EnergySettings(Section):
    """How energy is measured; everything beside the meter's name is a setting of the meter."""

    model_config = ConfigDict(extra="allow", frozen=True)

    meter: str = "codecarbon"

    @property
    def settings(self) -> dict[str, Any]:
        """The meter's own settings."""
        return dict(self.model_extra or {})


class BenchmarkSettings(Section):
    """How candidates are measured.

    Parameters
    ----------
    seconds
        Of timing for each candidate that is judged; a first look takes less than a third of it.
    memory
        Whether the peak memory is measured, in a process of its own for each.
    energy
        Meter of energy, carbon and cost; None: they are not measured.
    """

    seconds: float = Field(default=2.0, gt=0)
    memory: bool = True
    energy: EnergySettings | None = None


class RegistrySettings(Section):
    """Where versions are registered.

    Parameters
    ----------
    kind
        Name of an installed registry.
    url
        Its address; by default a SQLite file in the project's home.
    """

    kind: str = "mlflow"
    url: str | None = None


class JournalSettings(Section):
    """Where the journal is kept: a SQLAlchemy URL; by default a SQLite file in the project's home."""

    url: str | None = None


class Project(BaseSettings):
    r"""One project file: a model, its data, and what keeping it well means.

    Examples
    --------
    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "p.yaml"
    >>> _ = path.write_text("name: p\nsource: {path: rows.csv}\nwindow: {every: 7d}\nfeatures: {x: {}}\n")
    >>> Project.load(path, ["gate.confidence=0.9"]).gate.confidence
    0.9
    """

    model_config = SettingsConfigDict(
        extra="forbid", frozen=True, env_prefix=ENVIRONMENT_PREFIX, env_nested_delimiter="__"
    )

    name: str = Field(pattern=r"^[a-z0-9][a-z0-9-]*$")
    seed: int = 0
    home: Path | None = None
    source: SourceSettings
    features: dict[str, Feature] = Field(min_length=1)
    window: WindowSettings
    data: DataSettings = DataSettings()
    model: ModelSettings = ModelSettings()
    monitors: MonitorsSettings = MonitorsSettings()
    trigger: Trigger = Trigger()
    targets: tuple[Target, ...] = Field(default=(Target(),), min_length=1)
    optimize: OptimizeSettings = OptimizeSettings()
    benchmark: BenchmarkSettings = BenchmarkSettings()
    gate: Gate = Gate()
    registry: RegistrySettings = RegistrySettings()
    journal: JournalSettings = JournalSettings()

    _file: ClassVar[dict[str, Any]] = {}

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Say which source wins: ``--set``, then the environment, then the file."""
        return init_settings, EnvSettingsSource(settings_cls), InitSettingsSource(settings_cls, cls._file)

    @classmethod
    def load(cls, path: Path, overrides: Sequence[str] = ()) -> Project:
        """Read a project file.

        Parameters
        ----------
        path
            The YAML file.
        overrides
            ``key.key=value`` each, the value as YAML.

        Raises
        ------
        SettingsError
            Listing every problem at once, each with its key, value, rule and the nearest right key.
        """
        content = _read_yaml(path)
        _check_environment(list(cls.model_fields))
        reader = type(cls.__name__, (cls,), {"_file": content, "__module__": cls.__module__})
        try:
            project = reader(**_nest(overrides))
        except ValidationError as error:
            raise SettingsError(_explain(error, path, cls)) from error
        except UnreadableVariable as error:
            raise SettingsError(_explain_variable(error, cls.model_fields)) from error
        return cls.model_construct(**{name: getattr(project, name) for name in cls.model_fields})

    @property
    def folder(self) -> Path:
        """The project's home: journal, steps, packages, reports; ``.trimtab/NAME`` by default."""
        return Path(self.home) if self.home is not None else Path(".trimtab") / self.name

    @property
    def journal_url(self) -> str:
        """Where the journal is."""
        return self.journal.url or f"sqlite:///{(self.folder / 'journal.db').absolute()}"

    @property
    def registry_url(self) -> str:
        """Where the registry is."""
        return self.registry.url or f"sqlite:///{(self.folder / 'mlflow.db').absolute()}"

    @property
    def sealed(self) -> dict[str, Any]:
        """What may not change after the first run: it says which role a row has, and which number a window."""
        data = self.data
        return {
            "data.split": {str(role): share for role, share in data.split.shares.items()},
            "data.group": data.group,
            "data.block": data.block,
            "window.every": self.window.every,
        }

    @property
    def target(self) -> Target:
        """The first target, whose champion is watched."""
        return self.targets[0]

    @property
    def aliases(self) -> dict[str, Target]:
        """Every target by the alias of its champion; the first one's is ``champion``."""
        first, *others = self.targets
        return {CHAMPION: first} | {f"{CHAMPION}-{t.name}": t for t in others}

    def alias_of(self, target: str | None) -> str:
        """Return the alias of a target's champion, by the target's name; None: the first target's.

        Raises
        ------
        SettingsError
            When no target has the name.
        """
        names = {t.name: alias for alias, t in reversed(self.aliases.items()) if t.name is not None}
        if target is None:
            return CHAMPION
        if target not in names:
            have = ", ".join(names) or "none that has a name"
            raise SettingsError(f"no target is named {target!r}; targets: {have}.{nearest(target, list(names))}")
        return names[target]

    @field_validator("targets")
    @classmethod
    def _targets_are_told_apart(cls, targets: tuple[Target, ...]) -> tuple[Target, ...]:
        names = [t.name for t in targets[1:]]
        if None in names:
            raise ValueError("every target but the first needs a name, such as name: edge")
        if len(set(names)) < len(names):
            raise ValueError(f"targets share a name: {names}; give each its own")
        return targets


class PlainLoader(yaml.SafeLoader):
    """Reads YAML with the booleans of YAML 1.2: ``on``, ``off``, ``yes`` and ``no`` are words (``trigger.on``)."""


PlainLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in pairs if tag != "tag:yaml.org,2002:bool"]
    for first, pairs in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
PlainLoader.add_implicit_resolver(
    "tag:yaml.org,2002:bool", re.compile(r"^(?:true|True|TRUE|false|False|FALSE)$"), "tTfF"
)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.load(path.read_text(), PlainLoader)  # noqa: S506 (a SafeLoader)
    except OSError as error:
        beside = [p.name for p in path.parent.glob("*.yaml")] if path.parent.is_dir() else []
        raise SettingsError(
            f"project file {str(path)!r} cannot be read: {error.strerror}."
            f"{nearest(path.name, beside) or ' Name a YAML file that exists.'}"
        ) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(content, dict):
        raise SettingsError(f"{path} holds a {type(content).__name__}; a project file is a mapping of settings")
    return content


def _nest(overrides: Sequence[str]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for item in overrides:
        key, sign, text = item.partition("=")
        if not sign or not key:
            raise SettingsError(f"--set {item!r} is not of the form key.key=value")
        place = nested
        *parents, last = key.split(".")
        for parent in parents:
            place = place.setdefault(parent, {})
            if not isinstance(place, dict):
                raise SettingsError(f"--set {key}: {parent!r} was set to {place!r} before, which holds no keys")
        try:
            place[last] = yaml.load(text, PlainLoader)  # noqa: S506 (a SafeLoader)
        except yaml.YAMLError as error:
            raise SettingsError(f"--set {key}: {text!r} is not valid YAML") from error
    return nested


def _check_environment(fields: Sequence[str]) -> None:
    """Refuse ``TRIMTAB_GAT__CONFIDENCE``: a misspelt variable must not be silently without effect."""
    for variable in os.environ:
        head, nested, _ = variable.removeprefix(ENVIRONMENT_PREFIX).lower().partition("__")
        if variable.startswith(ENVIRONMENT_PREFIX) and nested and head not in fields:
            raise SettingsError(f"environment variable {variable}: no setting {head!r}.{nearest(head, fields)}")


def _explain_variable(error: UnreadableVariable, fields: Iterable[str]) -> str:
    """Name the variables of the field that the settings library could not read."""
    field = next((f for f in fields if f'"{f}"' in str(error)), "")
    names = sorted(v for v in os.environ if v.upper().startswith(f"{ENVIRONMENT_PREFIX}{field}".upper()))
    return f"environment: {', '.join(names)} cannot be read: {error.__cause__}; write lists and mappings as JSON"


def _explain(error: ValidationError, path: Path, root: type[BaseModel]) -> str:
    problems = _told_once(error)
    lines = [f"{path}: {len(problems)} problem(s)"]
    for problem in problems:
        at = ".".join(str(part) for part in problem["loc"])
        if problem["type"] == "extra_forbidden":
            known = _siblings(root, problem["loc"][:-1])
            lines.append(f"  {at}: unknown key; there are {', '.join(known)}.{nearest(str(problem['loc'][-1]), known)}")
        elif problem["type"] == "missing":
            lines.append(f"  {at}: required, and not set")
        else:
            message = _in_yaml_words(problem["msg"].removeprefix("Value error, "))
            lines.append(f"  {at}: {message}, got {problem.get('input')!r}")
    return "\n".join(lines)


def _told_once(error: ValidationError) -> list[ErrorDetails]:
    """Leave out that a list is too short where only its wrong items are missing from it."""
    problems = error.errors()
    return [p for p in problems if p["type"] != "too_short" or not any(_below(q, p) for q in problems if q is not p)]


def _below(inner: ErrorDetails, outer: ErrorDetails) -> bool:
    return inner["loc"][: len(outer["loc"])] == outer["loc"]


def _in_yaml_words(message: str) -> str:
    """Name types as the author of a YAML file does.

    Examples
    --------
    >>> _in_yaml_words("Input should be a valid dictionary or instance of Gate")
    'Input should be a mapping of settings'
    """
    message = re.sub(r"a valid dictionary( or instance of \w+)?", "a mapping of settings", message)
    return message.replace("a valid tuple", "a list").replace("Tuple should have", "the list should have")


def _siblings(root: type[BaseModel], location: Sequence[str | int]) -> list[str]:
    """Return the keys that are right at ``location``."""
    model: Any = root
    for part in location:
        fields = getattr(model, "model_fields", None)
        if fields is None or part not in fields:
            continue
        annotation = fields[part].annotation
        options = [annotation, *getattr(annotation, "__args__", ())]
        model = next((o for o in options if hasattr(o, "model_fields")), model)
    return list(model.model_fields)
