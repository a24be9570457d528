"""The journal's tables: every row belongs to one project; a change here is a new schema version."""

from __future__ import annotations

from typing import Any

from sqlalchemy import JSON, BigInteger, ForeignKey, String, UniqueConstraint
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

SCHEMA_VERSION = 4

# In the order of their characters on every database: a server's own language would put findings in another.
TEXT = String().with_variant(String(collation="C"), "postgresql")


class Base(DeclarativeBase):
    """Tables of the journal; every row belongs to one project."""

    type_annotation_map = {dict[str, Any]: JSON, list[Any]: JSON, str: TEXT}  # noqa: RUF012 (SQLAlchemy reads it)


class Meta(Base):
    """Version of the tables."""

    __tablename__ = "meta"
    key: Mapped[str] = mapped_column(primary_key=True)
    value: Mapped[str]


class ProjectRow(Base):
    """A project and what was fixed at its first run."""

    __tablename__ = "projects"
    name: Mapped[str] = mapped_column(primary_key=True)
    config: Mapped[str]
    split_key: Mapped[str]
    sealed: Mapped[dict[str, Any]]
    start: Mapped[int | None] = mapped_column(BigInteger)
    created: Mapped[str]


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
    action: Mapped[str | None]
    reasons: Mapped[list[Any]]
    weighed: Mapped[dict[str, Any]]
    seconds: Mapped[float] = mapped_column(default=0.0)
    at: Mapped[str]


class FindingRow(Base):
    """What a monitor found in a window under a version."""

    __tablename__ = "findings"
    project: Mapped[str] = mapped_column(ForeignKey("projects.name"), primary_key=True)
    window: Mapped[int] = mapped_column(primary_key=True)
    monitor: Mapped[str] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    tick: Mapped[int]
    answer: Mapped[str]
    finding: Mapped[dict[str, Any]]
    at: Mapped[str]


class LabelRow(Base):
    """How many labels of a window were there when they were last judged."""

    __tablename__ = "labels"
    project: Mapped[str] = mapped_column(ForeignKey("projects.name"), primary_key=True)
    window: Mapped[int] = mapped_column(primary_key=True)
    rows: Mapped[int]
    complete: Mapped[bool]
    closed: Mapped[int]
    at: Mapped[str]


class QualityRow(Base):
    """Quality of a version on a window's labelled rows that it was never fitted to."""

    __tablename__ = "qualities"
    project: Mapped[str] = mapped_column(ForeignKey("projects.name"), primary_key=True)
    window: Mapped[int] = mapped_column(primary_key=True)
    version: Mapped[int] = mapped_column(primary_key=True)
    value: Mapped[float | None]
    rows: Mapped[int]
    at: Mapped[str]


class Leased(Base):
    """What one process does at a time: who holds it, and until when (seconds since 1970)."""

    __abstract__ = True
    operation: Mapped[str] = mapped_column(primary_key=True)
    owner: Mapped[str | None]
    lease_until: Mapped[float] = mapped_column(default=0.0)


class RoundRow(Leased):
    """One optimization, from request to outcome."""

    __tablename__ = "rounds"
    project: Mapped[str] = mapped_column(ForeignKey("projects.name"))
    window: Mapped[int]
    cause: Mapped[str]
    reasons: Mapped[list[Any]]
    state: Mapped[str]
    outcome: Mapped[str | None]
    epoch: Mapped[int]
    detail: Mapped[dict[str, Any]]
    requested: Mapped[str]
    closed: Mapped[str | None]


class LeaseRow(Leased):
    """What one process does at a time beside a round."""

    __tablename__ = "leases"
    project: Mapped[str] = mapped_column(ForeignKey("projects.name"))


class SplitRow(Base):
    """A sealed split: how many rows of each role, under which digest; never changed."""

    __tablename__ = "splits"
    operation: Mapped[str] = mapped_column(primary_key=True)
    project: Mapped[str] = mapped_column(ForeignKey("projects.name"))
    digest: Mapped[str]
    detail: Mapped[dict[str, Any]]
    at: Mapped[str]


class PromotionRow(Base):
    """One change of champion on one target; the epoch orders all of a project's, and only one can take each."""

    __tablename__ = "promotions"
    __table_args__ = (UniqueConstraint("project", "operation"),)
    project: Mapped[str] = mapped_column(ForeignKey("projects.name"), primary_key=True)
    epoch: Mapped[int] = mapped_column(primary_key=True)
    alias: Mapped[str]
    version: Mapped[int]
    operation: Mapped[str]
    kind: Mapped[str]
    detail: Mapped[dict[str, Any]]
    at: Mapped[str]


class RecordRow(Base):
    """Anything else worth keeping: errors, quarantines, repairs; once an operation, where one is given."""

    __tablename__ = "records"
    __table_args__ = (UniqueConstraint("project", "operation"),)
    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=True)
    project: Mapped[str]
    operation: Mapped[str | None]
    kind: Mapped[str]
    detail: Mapped[dict[str, Any]]
    at: Mapped[str]


class ChangeRow(Base):
    """How often a project's part of the journal was written to, whatever was written."""

    __tablename__ = "changes"
    project: Mapped[str] = mapped_column(primary_key=True)
    number: Mapped[int] = mapped_column(BigInteger)
