"""The sections of a project file: what can be set, its default, and the rule that it must keep."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from cronsim import CronSim, CronSimError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, field_validator, model_validator

from trimtab.address import masked
from trimtab.data import Role
from trimtab.errors import nearest
from trimtab.recipe import Recipe
from trimtab.search import Halving

__all__ = [
    "BenchmarkSettings",
    "DataSettings",
    "EnergySettings",
    "JournalSettings",
    "ModelSettings",
    "MonitorsSettings",
    "OptimizeSettings",
    "RegistrySettings",
    "RunnerSettings",
    "Section",
    "SourceSettings",
    "Split",
    "Training",
    "WindowSettings",
    "count_of",
]


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
Address = Annotated[str, PlainSerializer(masked, when_used="json")]
"""Of a server or a database; what is written down of a project's settings, in the journal too, has no password."""


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
        Windows that pass until a window's labels are used.
    label_patience
        Windows after these in which labels that were missing still count when they come.
    per_year
        Windows in a year, from which rates per year follow; without it, as many as fit, and 52 where
        windows are counted by rows.
    """

    every: Annotated[str | int, BeforeValidator(_every)]
    start: str | int | None = None
    label_delay: Windows = 0
    label_patience: Windows = 8
    per_year: float | None = Field(default=None, gt=0)

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
        Columns by whose values the monitors also look at rows apart; with ``gate.max_segment_drop`` the gate
        judges quality by them too.
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
    """How the first champion is built, and what later training takes that no technique says itself.

    Everything beside these two is a setting of the trainer.

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
    reference
        What windows are compared with where no labels are needed: ``fixed``, the version's held-back rows;
        ``last good``, the newest window that alarmed in nothing; ``season 7d`` (or ``season 4 windows``), the
        newest window that lies whole seasons back. Until there is such a window it is ``fixed``.
    rows
        Most rows of a window that the champion answers for its monitors, and that are looked at together;
        a larger window is drawn from. Counts and columns are of all rows.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    use: tuple[str, ...] = ("integrity", "evidently.drift", "performance")
    false_alarms: float = Field(default=0.05, gt=0, lt=1)
    reference: str = Field(default="fixed", pattern=r"^(fixed|last good|season [1-9]\d*(d| windows?))$")
    rows: int = Field(default=50_000, ge=1000)

    @model_validator(mode="after")
    def _extras_are_monitors(self) -> MonitorsSettings:
        for key, value in (self.model_extra or {}).items():
            if key not in self.use:
                known = [*self.use, *type(self).model_fields]
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
        list as a setting's value means: try each. None: those that the trainer suggests.
    candidates
        Most recipes that a round begins.
    minutes
        Time of a round: no step is begun after it, and a training that would outlast it gives up; what
        was built by then is judged.
    recipes
        Recipes to try first, written out.
    together
        Recipes that are drawn before it is known what comes of the first of them; as many are built at the same
        time at most. Which recipes are tried follows from it, and not from the runner.
    threads
        Threads that building one of them may use.
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

    techniques: tuple[Annotated[str | dict[str, Any], BeforeValidator(_named)], ...] | None = Field(
        default=None, min_length=1
    )
    candidates: int = Field(default=12, ge=1)
    minutes: float = Field(default=20, gt=0)
    recipes: tuple[Recipe, ...] = ()
    together: int = Field(default=4, ge=1)
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
    again
        Time (``30d``, ``8 windows``) after which the champion is timed again, where ``trigger.on`` names
        ``slower``.
    energy
        Meter of energy, carbon and cost; None: they are not measured.
    """

    seconds: float = Field(default=2.0, gt=0)
    memory: bool = True
    again: str = Field(default="30d", pattern=r"^[1-9]\d*(d| windows?)$")
    energy: EnergySettings | None = None


class ScheduleSettings(Section):
    """When a scheduler looks at a project's windows.

    Parameters
    ----------
    cron
        Five fields: minute, hour, day of the month, month, day of the week. ``H`` as the minute is one that follows
        from the project's name, so that many projects are not due at once.
    timezone
        Of the cron, by its IANA name.
    catch_up
        After an outage: ``all`` windows that closed meanwhile are looked at, in order, or the ``latest`` alone. Those
        that are left out are written down; nothing is trained on them.
    """

    cron: str = "0 * * * *"
    timezone: str = "UTC"
    catch_up: Literal["all", "latest"] = "all"

    @field_validator("cron")
    @classmethod
    def _comes(cls, value: str) -> str:
        try:
            next(CronSim(_at_minute(value, "0"), datetime.now(UTC)))
        except (CronSimError, StopIteration) as error:
            raise ValueError(f"{value!r} is no cron of five fields that ever comes, such as '0 4 * * *'") from error
        return value

    @field_validator("timezone")
    @classmethod
    def _exists(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (ZoneInfoNotFoundError, ValueError) as error:
            raise ValueError(f"{value!r} is no IANA name of a time zone, such as Europe/Berlin") from error
        return value

    def after(self, moment: datetime) -> datetime:
        """Return when the cron comes next after a moment that has a time zone.

        Examples
        --------
        >>> night = ScheduleSettings(cron="0 4 * * *", timezone="Europe/Berlin")
        >>> night.after(datetime(2026, 1, 5, 12, tzinfo=UTC)).isoformat()
        '2026-01-06T04:00:00+01:00'
        """
        return next(CronSim(self.cron, moment.astimezone(ZoneInfo(self.timezone))))

    def of(self, project: str) -> ScheduleSettings:
        """Return the schedule with the minute that ``H`` stands for in a project of that name.

        Examples
        --------
        >>> hourly = ScheduleSettings(cron="H * * * *")
        >>> hourly.of("churn").cron, hourly.of("digits").cron, ScheduleSettings().of("churn").cron
        ('34 * * * *', '2 * * * *', '0 * * * *')
        """
        minute = int(hashlib.sha256(project.encode()).hexdigest(), 16) % 60
        return self.model_copy(update={"cron": _at_minute(self.cron, str(minute))})


def _at_minute(cron: str, minute: str) -> str:
    """Return a cron with its minute in place of ``H``."""
    first, _, rest = cron.strip().partition(" ")
    return f"{minute if first == 'H' else first} {rest}"


class RegistrySettings(Section):
    """Where versions are registered.

    Parameters
    ----------
    kind
        Name of an installed registry.
    url
        Its address; by default a SQLite file in the project's home.
    artifacts
        Where the models' files are kept: a folder, by default ``artifacts`` in the project's home, or an address that
        fsspec knows, such as ``s3://bucket/path``. It counts where ``url`` is no server, and for the server that
        ``trimtab up`` starts; any other decides itself.
    """

    kind: str = "mlflow"
    url: Address | None = None
    artifacts: Address | None = None


class RunnerSettings(Section):
    """Where candidates are built and parts of large windows are looked at; what comes of it is the same everywhere.

    Everything beside ``kind`` is a setting of the runner. ``runner: processes`` is short for its kind, and an address
    such as ``runner: dask://host:8786`` for its kind and ``url``.

    Parameters
    ----------
    kind
        Name of an installed runner: ``threads`` of the loop's own process, ``processes`` of its machine, or ``dask`` or
        ``ray`` for other machines too.
    """

    model_config = ConfigDict(extra="allow", frozen=True)

    kind: str = "threads"

    @property
    def settings(self) -> dict[str, Any]:
        """The runner's own settings."""
        return dict(self.model_extra or {})


class PromotionSettings(Section):
    """Who promotes what the gate has proven; ``promotion: manual`` is short for that mode.

    Parameters
    ----------
    mode
        ``automatic``: the round itself. ``manual``: a person, with ``trimtab promote``; until then the winner has
        the alias ``challenger``, and no other round starts.
    expires
        Windows after which a proposal that nobody answered is void.
    """

    mode: Literal["automatic", "manual"] = "automatic"
    expires: Windows = 4


class RolloutSettings(Section):
    """How a challenger that the gate has proven meets live windows, before and after it is promoted.

    Parameters
    ----------
    shadow
        Windows after the round on which the winner answers beside the champion, and is judged by their labels,
        before it is promoted; 0: it is promoted at once.
    probation
        Windows after a promotion on which the new champion is judged by their labels beside its predecessor; one
        that is proven to be worse is rolled back, once. 0: none is.
    """

    shadow: Windows = 0
    probation: Windows = 2


class JournalSettings(Section):
    """Where the journal is kept.

    Parameters
    ----------
    url
        SQLAlchemy's address of a SQLite file or of a PostgreSQL database, such as
        ``postgresql+psycopg://user@host/database``; by default a SQLite file in the project's home.
    """

    url: Address | None = None
