"""The demo's data: scikit-learn's digits as weekly captures by a scanner that is replaced in week 5.

Nothing is downloaded, and the same seed gives the same rows, so the demo's figures can be checked.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from scipy import ndimage
from sklearn.datasets import load_digits

__all__ = ["DRIFT_WINDOW", "SIDE", "WINDOWS", "write_stream"]

Images = npt.NDArray[np.float32]

SIDE = 32
"""Height and width of an image in pixels."""
WINDOWS = 8
"""Number of windows in the stream, one a week."""
DRIFT_WINDOW = 5
"""The first window that the new scanner captured."""

HISTORY_SCANS = 800
HISTORY_CAPTURES = 4
WINDOW_ROWS = 800
GOLDEN_ROWS = 1500

FIRST_MONDAY = np.datetime64("2026-01-05T00:00:00", "us")
WEEK = np.timedelta64(7 * 24 * 3600 * 1_000_000, "us")


@dataclass(frozen=True)
class Scanner:
    """How a capture distorts ``[rows, 32, 32]`` images in [0, 1].

    Parameters
    ----------
    contrast, offset
        A pixel ``p`` becomes ``contrast * p + offset``.
    blur
        Standard deviation of the Gaussian blur, in pixels; 0 for none.
    noise
        Standard deviation of the noise of each pixel.
    """

    contrast: float = 1.0
    offset: float = 0.0
    blur: float = 0.0
    noise: float = 0.03

    def capture(self, images: Images, rng: np.random.Generator) -> Images:
        """Return the images as 8-bit grey levels, scaled back to [0, 1]."""
        blurred = ndimage.gaussian_filter(images, sigma=(0, self.blur, self.blur)) if self.blur else images
        seen = self.contrast * blurred + self.offset + rng.normal(0.0, self.noise, images.shape)
        return (np.rint(np.clip(seen, 0.0, 1.0) * 255.0) / 255.0).astype(np.float32)


OLD_SCANNER = Scanner()
NEW_SCANNER = Scanner(contrast=0.65, offset=0.10, blur=1.0, noise=0.08)


@dataclass(frozen=True)
class Part:
    """One file of the stream: which scans are captured, by which scanner, in which week."""

    name: str
    scans: npt.NDArray[np.int64]
    scanner: Scanner
    week: int


def write_stream(folder: Path, seed: int) -> None:
    """Write the demo's rows to ``folder`` as parquet files.

    ``stream/history.parquet`` (week 0) holds 3,200 captures of 800 scans for the first champion,
    ``stream/window-1.parquet`` to ``stream/window-8.parquet`` 800 captures each of the other 997 scans, one
    week after the other, and ``golden.parquet`` 1,500 captures of any scan by the old scanner. Weeks begin
    on Mondays at 00:00 UTC, the first on 2026-01-05. From window 5 on another scanner captures: less
    contrast, brighter, blurred, noisier.

    Columns: ``captured_at`` (UTC), ``row_id`` (unique over all files), ``scan_id`` (the original: captures of
    one scan belong in one role), ``image`` (1,024 float32 in [0, 1], row by row) and ``digit`` (0 to 9).

    Parameters
    ----------
    folder
        Created when missing; files of the same names are overwritten.
    seed
        Not negative. The same seed gives the same rows.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> write_stream(folder, seed=0)
    >>> len(list(folder.glob("stream/window-*.parquet")))
    8
    """
    originals, digits = _originals()
    (folder / "stream").mkdir(parents=True, exist_ok=True)
    first_row = 0
    for number, part in enumerate(_parts(seed, len(originals))):
        rng = np.random.default_rng([seed, 1 + number])
        images = part.scanner.capture(_jitter(originals[part.scans], rng), rng)
        pq.write_table(_table(part, images, digits[part.scans], first_row), folder / f"{part.name}.parquet")
        first_row += len(images)


def _originals() -> tuple[Images, npt.NDArray[np.int64]]:
    """Return the 1,797 scans enlarged to ``[scans, 32, 32]`` in [0, 1], and their digits."""
    bunch = load_digits()
    small = np.asarray(bunch.images, dtype=np.float32) / 16.0
    zoom = SIDE / small.shape[1]
    large = ndimage.zoom(small, (1, zoom, zoom), order=1, mode="nearest", grid_mode=True)
    return large.astype(np.float32), np.asarray(bunch.target, dtype=np.int64)


def _parts(seed: int, scans: int) -> Iterator[Part]:
    """Draw which scan each row captures; history and windows share none."""
    rng = np.random.default_rng([seed, 0])
    shuffled = rng.permutation(scans)
    history, pool = shuffled[:HISTORY_SCANS], shuffled[HISTORY_SCANS:]
    yield Part("stream/history", rng.permutation(np.tile(history, HISTORY_CAPTURES)), OLD_SCANNER, 0)
    for number in range(1, WINDOWS + 1):
        scanner = OLD_SCANNER if number < DRIFT_WINDOW else NEW_SCANNER
        yield Part(f"stream/window-{number}", rng.choice(pool, WINDOW_ROWS, replace=False), scanner, number)
    yield Part("golden", rng.choice(shuffled, GOLDEN_ROWS, replace=False), OLD_SCANNER, 0)


def _jitter(images: Images, rng: np.random.Generator) -> Images:
    """Put each scan down anew: shifted, turned, scaled and lit a little differently."""
    rows, centre = len(images), (SIDE - 1) / 2
    angles = np.deg2rad(rng.uniform(-8.0, 8.0, rows))
    scales = rng.uniform(0.92, 1.08, rows)
    shifts = rng.uniform(-1.5, 1.5, (rows, 2))
    light = rng.uniform(0.98, 1.02, rows)
    out = np.empty_like(images)
    for row in range(rows):
        cos, sin = np.cos(angles[row]) / scales[row], np.sin(angles[row]) / scales[row]
        turn = np.array([[cos, -sin], [sin, cos]])
        offset = centre - turn @ (centre + shifts[row])
        out[row] = ndimage.affine_transform(images[row], turn, offset, order=1) * light[row]
    return out


def _table(part: Part, images: Images, digits: npt.NDArray[np.int64], first_row: int) -> pa.Table:
    rows = len(images)
    captured = FIRST_MONDAY + part.week * WEEK + np.arange(rows) * (WEEK // rows)
    starts = np.arange(rows + 1, dtype=np.int32) * (SIDE * SIDE)
    columns: dict[str, Any] = {
        "captured_at": pa.array(captured, pa.timestamp("us", tz="UTC")),
        "row_id": pa.array(np.arange(first_row, first_row + rows)),
        "scan_id": pa.array(part.scans),
        "image": pa.ListArray.from_arrays(pa.array(starts), pa.array(images.ravel())),
        "digit": pa.array(digits),
    }
    return pa.table(columns)
