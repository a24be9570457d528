"""The project file, typed: defaults < YAML file < ``TRIMTAB_*`` environment < ``--set`` on the command line."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import yaml
from pydantic import BaseModel, BeforeValidator, Field, ValidationError, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    InitSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
)
from pydantic_settings import SettingsError as UnreadableVariable

from trimtab.address import masked
from trimtab.errors import SettingsError, nearest
from trimtab.files import duration
from trimtab.gate import Gate
from trimtab.runtime import CHAMPION, Target
from trimtab.sections import (
    BenchmarkSettings,
    DataSettings,
    JournalSettings,
    ModelSettings,
    MonitorsSettings,
    OptimizeSettings,
    PromotionSettings,
    RegistrySettings,
    RolloutSettings,
    RunnerSettings,
    ScheduleSettings,
    SourceSettings,
    WindowSettings,
)
from trimtab.technique import trainer_named, usual
from trimtab.trigger import Trigger
from trimtab.window import Feature

__all__ = ["Project"]

ENVIRONMENT_PREFIX = "TRIMTAB_"
WEEKS = 52.0


def _mode(value: object) -> object:
    return {"mode": value} if isinstance(value, str) else value


def _runner(value: object) -> object:
    """Return the settings that a short word or an address stands for.

    Examples
    --------
    >>> _runner("processes"), _runner("dask://host:8786")
    ({'kind': 'processes'}, {'kind': 'dask', 'url': 'dask://host:8786'})
    """
    if not isinstance(value, str):
        return value
    kind, address, _ = value.partition("://")
    return {"kind": kind, "url": value} if address else {"kind": kind}


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
    schedule: ScheduleSettings = ScheduleSettings()
    promotion: Annotated[PromotionSettings, BeforeValidator(_mode)] = PromotionSettings()
    rollout: RolloutSettings = RolloutSettings()
    targets: tuple[Target, ...] = Field(default=(Target(),), min_length=1)
    optimize: OptimizeSettings = OptimizeSettings()
    benchmark: BenchmarkSettings = BenchmarkSettings()
    gate: Gate = Gate()
    runner: Annotated[RunnerSettings, BeforeValidator(_runner)] = RunnerSettings()
    registry: RegistrySettings = RegistrySettings()
    journal: JournalSettings = JournalSettings()

    _file: ClassVar[dict[str, Any]] = {}

    @property
    def choices(self) -> list[tuple[str, dict[str, Any]]]:
        """Names and settings of the techniques of ``optimize``, or of those that the trainer suggests, in order.

        Raises
        ------
        PluginError
            When it names none, and there is no such trainer.
        """
        named = self.optimize.techniques
        pairs: list[tuple[str, dict[str, Any]]] = []
        for item in usual(trainer_named(self.model.trainer)) if named is None else named:
            pairs.extend([(item, {})] if isinstance(item, str) else [(k, dict(v or {})) for k, v in item.items()])
        return pairs

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
    def timetable(self) -> ScheduleSettings:
        """The schedule, at the project's own minute where it names none."""
        return self.schedule.of(self.name)

    @property
    def windows_per_year(self) -> float:
        """Windows in a year."""
        every = self.window.every
        if self.window.per_year is not None:
            return self.window.per_year
        return duration("1461d") / 4 / duration(every) if isinstance(every, str) else WEEKS

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
            lines.append(masked(f"  {at}: {message}, got {problem.get('input')!r}"))
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
