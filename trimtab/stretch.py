"""A stretch of a stream's windows, named by numbers or dates, and the source that ends with it."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from trimtab.errors import SettingsError
from trimtab.window import Source, Window

__all__ = ["EndingSource", "Stretch"]


@dataclass(frozen=True)
class Stretch:
    """Windows from one to another, by their numbers in the whole stream.

    Parameters
    ----------
    first, last
        Both are part of it.
    """

    first: int
    last: int

    def __len__(self) -> int:
        return self.last - self.first + 1

    @classmethod
    def of(cls, source: Source, start: int, begin: str | None, end: str | None) -> Stretch:
        """Return the windows that a person means.

        Parameters
        ----------
        source
            Gives the whole stream.
        start
            Where its window 1 begins.
        begin, end
            The number of a window, or an instant in it (ISO 8601; UTC where it says no zone); None: the
            stream's first, and its last.

        Raises
        ------
        SettingsError
            When there is no such window, or the last comes before the first.
        """
        most = source.last(start)
        if not most:
            raise SettingsError(
                "window.start: every row lies before window 1; set it earlier, so that windows are left"
            )
        first = 1 if begin is None else _number(source, start, most, "--from", begin)
        last = most if end is None else _number(source, start, most, "--to", end)
        if last < first:
            raise SettingsError(f"--to names window {last}, which comes before window {first} of --from; exchange them")
        return cls(first, last)


def _number(source: Source, start: int, most: int, option: str, text: str) -> int:
    number = int(text) if text.strip().isdecimal() else _holding(source, start, most, option, text)
    if not 1 <= number <= most:
        raise SettingsError(f"{option} {text}: there is no such window; the stream has windows 1 to {most}")
    return number


def _holding(source: Source, start: int, most: int, option: str, text: str) -> int:
    """Return the number of the window that holds an instant; 0 and ``most + 1`` where it lies outside."""
    try:
        instant = pd.Timestamp(text)
    except ValueError as error:
        raise SettingsError(
            f"{option} {text!r} is neither a window's number nor an instant; write such as 12 or 2026-03-01"
        ) from error
    seconds = (instant.tz_localize("UTC") if instant.tzinfo is None else instant).timestamp()
    for number in range(most + 1):
        closes = source.closes(number, start)
        if closes is None:
            raise SettingsError(
                f"{option} {text}: windows of a number of rows have no dates; give a window's number, 1 to {most}"
            )
        if seconds < closes:
            return number
    return most + 1


@dataclass(frozen=True)
class EndingSource:
    """A source whose stream ends after some windows, though there are more.

    Parameters
    ----------
    source
        Gives the rows.
    most
        Windows after which it ends.
    """

    source: Source
    most: int

    @property
    def untyped(self) -> bool:
        """Whether the rows come without types, as those of CSV files do."""
        return getattr(self.source, "untyped", False)

    def begins(self) -> int:
        """Return the instant or row number at which window 1 begins."""
        return self.source.begins()

    def last(self, start: int) -> int:
        """Return the number of the last window that holds rows, or of the one after which it ends."""
        return min(self.most, self.source.last(start))

    def read(self, number: int, start: int) -> Window:
        """Return a window."""
        return self.source.read(number, start)

    def closes(self, number: int, start: int) -> float | None:
        """Return when a window closes."""
        return self.source.closes(number, start)
