"""What happened, durably and in order: windows, findings, decisions, rounds, promotions; on SQLite or PostgreSQL."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import select, update
from sqlalchemy.orm import Session

from trimtab.database import connect, reading, writing
from trimtab.errors import InternalError, SettingsError
from trimtab.history import Labelled, Promotion, Quality, Round, WindowRecord, degraded
from trimtab.lease import Leases
from trimtab.monitor import Answer, Finding
from trimtab.runtime import CHAMPION
from trimtab.tables import (
    ChangeRow,
    FindingRow,
    LabelRow,
    ProjectRow,
    PromotionRow,
    QualityRow,
    RecordRow,
    RoundRow,
    SplitRow,
    WindowRow,
)
from trimtab.trigger import Action, Decision

__all__ = ["Journal"]


class Journal:
    """The journal of one project.

    Parameters
    ----------
    url
        SQLAlchemy URL, such as ``sqlite:///journal.db`` or ``postgresql+psycopg://user@host/database``.
    project
        The project's name; many projects may share one database.

    Examples
    --------
    >>> journal = Journal("sqlite://", "p")
    >>> journal.begin(config="{}", split_key="k")
    >>> journal.promote("first", version=1, after=0, kind="first", detail={}).epoch
    1
    >>> journal.promote("late", version=2, after=0, kind="promote", detail={}) is None
    True
    """

    def __init__(self, url: str, project: str) -> None:
        self.project = project
        self.engine = connect(url)
        self._leases = Leases(self.engine, project)

    # projects

    def begin(self, config: str, split_key: str, sealed: Mapping[str, Any] | None = None) -> None:
        """Remember the project and its newest settings; the split key and what is sealed stay as at its first run.

        Raises
        ------
        SettingsError
            When a sealed setting was changed: rows would change their roles, or windows their numbers.
        """
        with self._write() as session:
            row = session.get(ProjectRow, self.project)
            if row is None:
                session.add(
                    ProjectRow(
                        name=self.project,
                        config=config,
                        split_key=split_key,
                        sealed=dict(sealed or {}),
                        start=None,
                        created=now(),
                    )
                )
                return
            for setting, value in (sealed or {}).items():
                if setting in row.sealed and row.sealed[setting] != value:
                    raise SettingsError(
                        f"{setting}: {value!r}, but this project began with {row.sealed[setting]!r}, and rows keep "
                        "their roles and windows their numbers; set it back, or begin a project of another name"
                    )
            row.config = config

    def projects(self) -> dict[str, str]:
        """Return the newest settings (JSON) of every project in this journal, by name."""
        with self._read() as session:
            return {row.name: row.config for row in session.scalars(select(ProjectRow).order_by(ProjectRow.name))}

    def fix_start(self, start: int) -> None:
        """Remember where window 1 begins; the first to say so is right."""
        with self._write() as session:
            where = (ProjectRow.name == self.project, ProjectRow.start.is_(None))
            session.execute(update(ProjectRow).where(*where).values(start=start))

    def fixed(self) -> tuple[str, int | None]:
        """Return the split key, and the start of window 1 once it is known.

        Raises
        ------
        InternalError
            Before :meth:`begin`.
        """
        with self._read() as session:
            row = session.get(ProjectRow, self.project)
            if row is None:
                raise InternalError(f"project {self.project!r} was not begun in this journal")
            return row.split_key, row.start

    def config(self) -> str:
        """Return the settings of the last run as JSON."""
        with self._read() as session:
            row = session.get(ProjectRow, self.project)
            return row.config if row is not None else "{}"

    # windows, findings, qualities

    def record_window(
        self, number: int, start: str, end: str, rows: int, champion: int | None, decision: Decision, seconds: float
    ) -> None:
        """Remember that a window was checked and what was decided; once."""
        with self._write() as session:
            if session.get(WindowRow, (self.project, number)) is None:
                session.add(
                    WindowRow(
                        project=self.project,
                        number=number,
                        start=start,
                        end=end,
                        rows=rows,
                        champion=champion,
                        labelled=self._judged(session, number),
                        action=decision.action.value,
                        reasons=list(decision.reasons),
                        weighed=dict(decision.weighed),
                        seconds=seconds,
                        at=now(),
                    )
                )

    def _judged(self, session: Session, number: int) -> bool:
        """Tell whether the window's labels were there, and used, before it was recorded."""
        query = select(QualityRow.version).where(QualityRow.project == self.project, QualityRow.window == number)
        return session.scalars(query.limit(1)).first() is not None

    def mark_labelled(self, number: int) -> None:
        """Remember that a window's labels were used."""
        with self._write() as session:
            where = (WindowRow.project == self.project, WindowRow.number == number)
            session.execute(update(WindowRow).where(*where).values(labelled=True))

    def record_labels(self, window: int, labelled: Labelled) -> None:
        """Remember how many labels a window had when they were judged."""
        with self._write() as session:
            plain = dataclasses.asdict(labelled)
            session.merge(LabelRow(project=self.project, window=window, at=now(), **plain))

    def labels(self) -> dict[int, Labelled]:
        """Return how many labels each window had when they were last judged, by its number."""
        with self._read() as session:
            rows = session.scalars(select(LabelRow).where(LabelRow.project == self.project))
            return {r.window: Labelled(r.rows, r.complete, r.closed) for r in rows}

    def windows(self) -> list[WindowRecord]:
        """Return every checked window in order."""
        with self._read() as session:
            rows = session.scalars(
                select(WindowRow).where(WindowRow.project == self.project).order_by(WindowRow.number)
            )
            return [
                WindowRecord(
                    r.number,
                    r.start,
                    r.end,
                    r.rows,
                    r.champion,
                    r.labelled,
                    Action(r.action) if r.action else None,
                    tuple(r.reasons),
                    r.weighed,
                    r.seconds,
                    r.at,
                )
                for r in rows
            ]

    def record_findings(self, findings: Sequence[Finding], version: int, tick: int) -> None:
        """Remember findings made at the close of window ``tick`` under ``version``.

        A repeated one replaces itself; it counts as made anew only if its answer is another.
        """
        with self._write() as session:
            for finding in findings:
                known = session.get(FindingRow, (self.project, finding.window, finding.monitor, version))
                same = known is not None and known.answer == finding.answer.value
                session.merge(
                    FindingRow(
                        project=self.project,
                        window=finding.window,
                        monitor=finding.monitor,
                        version=version,
                        tick=known.tick if known is not None and same else tick,
                        answer=finding.answer.value,
                        finding=finding.to_json(),
                        at=now(),
                    )
                )

    def findings(self, version: int | None = None, after: int = -1) -> list[tuple[int, Finding]]:
        """Return findings with the window at whose close they were made, under one version or all."""
        query = select(FindingRow).where(FindingRow.project == self.project, FindingRow.tick > after)
        if version is not None:
            query = query.where(FindingRow.version == version)
        with self._read() as session:
            rows = session.scalars(query.order_by(FindingRow.tick, FindingRow.window, FindingRow.monitor))
            return [(r.tick, Finding.from_json(r.finding)) for r in rows]

    def quarantined(self) -> set[int]:
        """Return the numbers of the windows that were found broken, and that nobody released since."""
        broken = (FindingRow.project == self.project, FindingRow.answer == Answer.BROKEN.value)
        with self._read() as session:
            found = set(session.scalars(select(FindingRow.window).where(*broken)))
        return found - self.released().keys()

    def release(self, window: int, who: str, reason: str) -> None:
        """Remember that a person released a quarantined window; once."""
        self.record("release", {"window": window, "who": who, "reason": reason}, f"release:{window}")

    def released(self) -> dict[int, Mapping[str, Any]]:
        """Return who released which window, when (``at``, UTC) and why, by the window's number."""
        return {detail["window"]: {**detail, "at": at} for at, _, detail in self.records("release")}

    def record_quality(self, quality: Quality) -> None:
        """Remember a version's quality on a window; a repeated one replaces itself."""
        with self._write() as session:
            session.merge(
                QualityRow(
                    project=self.project,
                    window=quality.window,
                    version=quality.version,
                    value=quality.value if math.isfinite(quality.value) else None,
                    rows=quality.rows,
                    at=now(),
                )
            )

    def qualities(self) -> list[Quality]:
        """Return every recorded quality, by window and version."""
        with self._read() as session:
            query = select(QualityRow).where(QualityRow.project == self.project)
            rows = session.scalars(query.order_by(QualityRow.window, QualityRow.version))
            return [Quality(r.window, r.version, math.nan if r.value is None else r.value, r.rows) for r in rows]

    # splits

    def seal(self, operation: str, digest: str, detail: Mapping[str, Any]) -> None:
        """Seal a split under the operation that made it.

        Raises
        ------
        InternalError
            When the same operation was sealed with other rows: a row would change its role.
        """
        with self._write() as session:
            row = session.get(SplitRow, operation)
            if row is None:
                session.add(
                    SplitRow(operation=operation, project=self.project, digest=digest, detail=dict(detail), at=now())
                )
            elif row.digest != digest:
                raise InternalError(
                    f"the rows of {operation} changed after their split was sealed (digest {row.digest[:12]}…, "
                    f"now {digest[:12]}…): the source's files were altered while a round ran; request a new round"
                )

    def splits(self) -> list[dict[str, Any]]:
        """Return what is written of each sealed split, oldest first."""
        with self._read() as session:
            query = select(SplitRow).where(SplitRow.project == self.project).order_by(SplitRow.at)
            return [dict(row.detail) for row in session.scalars(query)]

    # rounds

    def request_round(
        self,
        operation: str,
        window: int,
        cause: str,
        reasons: Sequence[str],
        who: str | None = None,
        *,
        alone: bool = False,
    ) -> Round:
        """Write a requested round; the same operation asks for the same round.

        Parameters
        ----------
        who
            Asks for it, where it is not the loop itself; remembered once.
        alone
            Write it only where no other round is open, and return the open one else.
        """
        with self._write() as session:
            row = session.get(RoundRow, operation)
            if row is None and alone and (other := self._open_round(session)) is not None:
                return _round(other)
            if row is None:
                row = RoundRow(
                    operation=operation,
                    project=self.project,
                    window=window,
                    cause=cause,
                    reasons=list(reasons),
                    state="requested",
                    epoch=self._epoch(session),
                    lease_until=0.0,
                    detail={},
                    requested=now(),
                )
                session.add(row)
                if who is not None:
                    told = {"round": operation, "who": who}
                    key = f"asked:{operation}"
                    session.add(RecordRow(project=self.project, operation=key, kind="asked", detail=told, at=now()))
            return _round(row)

    def _open_round(self, session: Session) -> RoundRow | None:
        query = select(RoundRow).where(RoundRow.project == self.project, RoundRow.state != "closed")
        return session.scalars(query.order_by(RoundRow.requested)).first()

    def lease(self, operation: str, wait: float = 0.0) -> AbstractContextManager[bool]:
        """Hold a round: whoever leases it first runs it; see :meth:`trimtab.lease.Leases.round`."""
        return self._leases.round(operation, wait)

    def leased(self, operation: str) -> bool:
        """Tell whether somebody holds a round, who may still live."""
        return self._leases.leased(operation)

    def watching(self) -> AbstractContextManager[Callable[[], bool] | None]:
        """Hold the right to look at the project's windows; see :meth:`trimtab.lease.Leases.watching`."""
        return self._leases.watching()

    def close_round(self, operation: str, outcome: str, detail: Mapping[str, Any]) -> None:
        """Close a round with its outcome; closing it again changes nothing."""
        with self._write() as session:
            row = session.get(RoundRow, operation)
            if row is not None and row.state != "closed":
                row.state, row.outcome, row.detail, row.closed = "closed", outcome, dict(detail), now()

    def settle_round(self, operation: str, before: str, outcome: str, detail: Mapping[str, Any]) -> None:
        """Give a closed round another outcome; only one whose outcome is ``before``, and so only once."""
        with self._write() as session:
            row = session.get(RoundRow, operation)
            if row is not None and row.state == "closed" and row.outcome == before:
                row.outcome, row.detail = outcome, {**detail, "was": [*row.detail.get("was", ()), before]}

    def waiting(self) -> Round | None:
        """Return the newest round whose winner waits: for a person, or for what live windows say of it."""
        return next((r for r in reversed(self.rounds()) if r.waits is not None), None)

    def rounds(self) -> list[Round]:
        """Return every round, oldest first."""
        with self._read() as session:
            query = select(RoundRow).where(RoundRow.project == self.project)
            return [_round(r) for r in session.scalars(query.order_by(RoundRow.requested, RoundRow.operation))]

    def degraded(self) -> bool:
        """Tell whether the champion is known to be worse and nothing has won since."""
        return degraded(self.rounds())

    # promotions

    def promote(
        self,
        operation: str,
        version: int,
        after: int,
        kind: str,
        detail: Mapping[str, Any],
        alias: str = CHAMPION,
    ) -> Promotion | None:
        """Take the epoch that follows ``after``; None when another promotion took it first.

        The same operation gets the promotion that it made before.
        """
        row = PromotionRow(
            project=self.project,
            epoch=after + 1,
            alias=alias,
            version=version,
            operation=operation,
            kind=kind,
            detail=dict(detail),
            at=now(),
        )
        with self._write() as session:
            same = (PromotionRow.project == self.project, PromotionRow.operation == operation)
            done = session.scalars(select(PromotionRow).where(*same)).first()
            if done is not None:
                return _promotion(done)
            if self._epoch(session) != after:
                return None
            session.add(row)
            session.flush()
            return _promotion(row)

    def promotions(self, alias: str | None = CHAMPION) -> list[Promotion]:
        """Return every change of the champion under an alias, or under any, oldest first."""
        with self._read() as session:
            query = select(PromotionRow).where(PromotionRow.project == self.project)
            query = query if alias is None else query.where(PromotionRow.alias == alias)
            return [_promotion(r) for r in session.scalars(query.order_by(PromotionRow.epoch))]

    def restore(self, promotions: Sequence[Promotion]) -> None:
        """Write promotions that the registry remembers and this journal does not."""
        with self._write() as session:
            for p in promotions:
                session.merge(
                    PromotionRow(
                        project=self.project,
                        epoch=p.epoch,
                        alias=p.alias,
                        version=p.version,
                        operation=p.operation,
                        kind=p.kind,
                        detail=dict(p.detail),
                        at=p.at,
                    )
                )

    def _epoch(self, session: Session) -> int:
        query = select(PromotionRow.epoch).where(PromotionRow.project == self.project)
        return max(session.scalars(query), default=0)

    # records

    def record(self, kind: str, detail: Mapping[str, Any], operation: str | None = None) -> bool:
        """Remember anything else: an error, a quarantine, a repair; once an operation, where one is given.

        Returns
        -------
        bool
            Whether it was not known before.
        """
        with self._write() as session:
            same = (RecordRow.project == self.project, RecordRow.operation == operation)
            if operation is not None and session.scalars(select(RecordRow).where(*same)).first() is not None:
                return False
            session.add(RecordRow(project=self.project, operation=operation, kind=kind, detail=dict(detail), at=now()))
            return True

    def records(self, kind: str | None = None) -> list[tuple[str, str, Mapping[str, Any]]]:
        """Return (instant, kind, detail) of every record, oldest first."""
        query = select(RecordRow).where(RecordRow.project == self.project)
        if kind is not None:
            query = query.where(RecordRow.kind == kind)
        with self._read() as session:
            return [(r.at, r.kind, r.detail) for r in session.scalars(query.order_by(RecordRow.id))]

    def changes(self) -> dict[str, int]:
        """Return how often each project of this database was written to: what is read of one changes with it alone."""
        with self._read() as session:
            return {row.project: row.number for row in session.scalars(select(ChangeRow))}

    def _read(self) -> AbstractContextManager[Session]:
        return reading(self.engine)

    def _write(self) -> AbstractContextManager[Session]:
        return writing(self.engine, self.project)


def now() -> str:
    """Return the present instant in UTC as ISO 8601."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def _round(row: RoundRow) -> Round:
    return Round(
        row.operation,
        row.window,
        row.cause,
        tuple(row.reasons),
        row.state,
        row.outcome,
        row.epoch,
        row.detail,
        row.requested,
        row.closed,
    )


def _promotion(row: PromotionRow) -> Promotion:
    return Promotion(row.epoch, row.version, row.operation, row.kind, row.detail, row.at, row.alias)
