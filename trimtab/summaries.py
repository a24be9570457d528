"""What monitors keep of a version's reference and of windows, as files: a page is made of them without the rows."""

from __future__ import annotations

import json
import uuid
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from trimtab.errors import ArtifactError
from trimtab.monitor import Summary

__all__ = ["REFERENCE", "Summaries"]

REFERENCE = 0
"""The window that stands for the version's reference."""

NAMES = "names"


@dataclass(frozen=True)
class Summaries:
    """Summaries in a folder, one compressed ``.npz`` each, without pickles.

    Parameters
    ----------
    folder
        Below it there is a folder for each version.

    Examples
    --------
    >>> import tempfile
    >>> kept = Summaries(Path(tempfile.mkdtemp()))
    >>> kept.write(1, 5, "drift", {"counts a/b": np.array([3, 4])})
    >>> kept.read(1, 5, "drift")["counts a/b"].tolist(), kept.read(1, 6, "drift")
    ([3, 4], None)
    """

    folder: Path

    def path(self, version: int, window: int, monitor: str) -> Path:
        """Return where a monitor's summary of a window under a version lies."""
        of = "reference" if window == REFERENCE else f"window-{window}"
        return self.folder / f"v{version}" / f"{of}-{monitor}.npz"

    def write(self, version: int, window: int, monitor: str, summary: Summary) -> None:
        """Store a summary whole or not at all; a repeated one replaces itself."""
        path = self.path(version, window, monitor)
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.npz")
        # columns have names of any letters, and an archive's members must not
        arrays: dict[str, Any] = {f"array_{place}": array for place, array in enumerate(summary.values())}
        arrays[NAMES] = np.array([json.dumps(list(summary))])
        try:
            np.savez_compressed(draft, **arrays)
            draft.replace(path)
        finally:
            draft.unlink(missing_ok=True)

    def read(self, version: int, window: int, monitor: str) -> Summary | None:
        """Return a stored summary, or None where nothing was kept.

        Raises
        ------
        ArtifactError
            When the file was torn or altered.
        """
        path = self.path(version, window, monitor)
        if not path.is_file():
            return None
        try:
            with np.load(path, allow_pickle=False) as file:
                names = json.loads(str(file[NAMES][0]))
                return {name: file[f"array_{place}"] for place, name in enumerate(names)}
        except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile) as error:
            raise ArtifactError(
                f"{path} cannot be read as what {monitor!r} kept of window {window}: {error}; restore it, or remove it"
            ) from error
