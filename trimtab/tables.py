"""The journal's tables: every row belongs to one project; a change here is a new schema version."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA_VERSION = 3


class Base(DeclarativeBase):
    """Tables of the journal; every row belongs to one project."""

    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON}  # noqa: RUF012 (SQLAlchemy reads it)


class Meta(Base):
    """Version of the tables."""

    __tablename__ = "meta"
    key: Mapped[str] = mapped_column(String(40), primary_key=True)
    value: Mapped[str] = mapped_column(String(200))


class ProjectRow(Base):
    """A project and what was fixed at its first run."""

    __tablename__ = "projects"
    name: Mapped[str] = mapped_column(String(100), primary_key=True)
    config: Mapped[str]
    split_key: Mapped[str] = mapped_column(String(200))
    sealed: Mapped[dict[str, Any]]
    start: Mapped[int | None]
    created: Mapped[str] = mapped_column(String(40))


class WindowRow(Base):
    """A window that was checked."""

    __tablename__ = "windows"
    project: Mapped[str] = mapped_column(ForeignKey("projects.name"), primary_key=True)
    number: Mapped[int] = mapped_column(primary_key=True)
    start: Mapped[str]
    end: Mapped[str]
    rows: Mapped[int]
    champion: Mapped[int | None]
    labelled: Mapped[bool] = mapped_column(default=False)
    action: Mapped[str | None] = mapped_column(String(20))
    reasons: Mapped[list[Any]]
    weighed: Mapped[dict[str, Any]]
    seconds: Mapped[float] = mapped_column(default=0.0)
    at: Mapped[str] = mapped_column(String(40))


class FindingRow(Base):
    """What a monitor found in a window under a version."""

    __tablename__ = "findings"
    project: Mapped[str] = mapped_column(ForeignKey("projects.name"), primary_key=True)
    window: Mapped[int] = mapped_column(primary_key=True)
    monitor: Mapped[str] = mapped_column(String(100), primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    tick: Mapped[int]
    answer: Mapped[str] = mapped_column(String(20))
    finding: Mapped[dict[str, Any]]
    at: Mapped[str] = mapped_column(String(40))


class LabelRow(Base):
    """How many labels of a window were there when they were last judged."""

    __tablename__ = "labels"
    project: Mapped[str] = mapped_column(ForeignKey("projects.name"), primary_key=True)
    window: Mapped[int] = mapped_column(primary_key=True)
    rows: Mapped[int]
    complete: Mapped[bool]
    closed: Mapped[int]
    at: Mapped[str] = mapped_column(String(40))


class QualityRow(Base):
    """Quality of a version on a window's labelled rows that it was never fitted to."""

    __tablename__ = "qualities"
    project: Mapped[str] = mapped_column(ForeignKey("projects.name"), primary_key=True)
    window: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[float | None]
    rows: Mapped[int]
    at: Mapped[str] = mapped_column(String(40))


class RoundRow(Base):
    """One optimization, from request to outcome."""

    __tablename__ = "rounds"
    operation: Mapped[str] = mapped_column(String(200), primary_key=True)
    project: Mapped[str] = mapped_column(ForeignKey("projects.name"))
    window: Mapped[int]
    cause: Mapped[str] = mapped_column(String(40))
    reasons: Mapped[list[Any]]
    state: Mapped[str] = mapped_column(String(20))
    outcome: Mapped[str | None] = mapped_column(String(20))
    epoch: Mapped[int]
    owner: Mapped[str | None] = mapped_column(String(200))
    lease_until: Mapped[float] = mapped_column(default=0.0)
    detail: Mapped[dict[str, Any]]
    requested: Mapped[str] = mapped_column(String(40))
    closed: Mapped[str | None] = mapped_column(String(40))


class SplitRow(Base):
    """A sealed split: how many rows of each role, under which digest; never changed."""

    __tablename__ = "splits"
    operation: Mapped[str] = mapped_column(String(200), primary_key=True)
    project: Mapped[str] = mapped_column(ForeignKey("projects.name"))
    digest: Mapped[str] = mapped_column(String(64))
    detail: Mapped[dict[str, Any]]
    at: Mapped[str] = mapped_column(String(40))


class PromotionRow(Base):
    """One change of champion on one target; the epoch orders all of a project's, and only one can take each."""

    __tablename__ = "promotions"
    __table_args__ = (UniqueConstraint("project", "operation"),)
    project: Mapped[str] = mapped_column(ForeignKey("projects.name"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    alias: Mapped[str] = mapped_column(String(100))
    version: Mapped[int]
    operation: Mapped[str] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(20))
    detail: Mapped[dict[str, Any]]
    at: Mapped[str] = mapped_column(String(40))


class RecordRow(Base):
    """Anything else worth keeping: errors, quarantines, repairs; once an operation, where one is given."""

    __tablename__ = "records"
    __table_args__ = (UniqueConstraint("project", "operation"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    project: Mapped[str] = mapped_column(String(100))
    operation: Mapped[str | None] = mapped_column(String(200))
    kind: Mapped[str] = mapped_column(String(40))
    detail: Mapped[dict[str, Any]]
    at: Mapped[str] = mapped_column(String(40))
