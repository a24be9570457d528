"""Reading cells as they come: tensors in whatever storage, numbers that are the same, and a number for each value."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

__all__ = ["fits", "hashes", "id_hashes", "instants", "occurs_once", "tensor", "whole", "word"]

DIGEST_BYTES = 8


def occurs_once(name: str, frame: pd.DataFrame) -> bool:
    """Whether exactly one column has the name."""
    return int((frame.columns == name).sum()) == 1


def tensor(cell: Any) -> npt.NDArray[np.float64]:
    """Read a cell that may be an array, nested lists, or (from Parquet) an array of arrays."""
    if isinstance(cell, str | bytes):
        raise TypeError("text is no tensor")
    if isinstance(cell, np.ndarray) and cell.dtype == object:
        return np.stack([tensor(part) for part in cell])
    return np.asarray(cell, dtype=np.float64)


def fits(found: tuple[int, ...], wanted: tuple[int, ...]) -> bool:
    """Whether a cell can be read as ``wanted``: flat, or nested in this order (axes of length 1 aside)."""
    if len(found) <= 1:
        return math.prod(found) == math.prod(wanted)
    return [n for n in found if n != 1] == [n for n in wanted if n != 1]


def id_hashes(ids: pd.Series[Any]) -> npt.NDArray[np.uint64]:
    """Return a number for each id; 3 that came as 3.0 beside a missing one is still 3."""
    if not pd.api.types.is_numeric_dtype(ids):
        plain = ids.map(lambda v: repr(whole(v)))
    else:
        numbers = ids.to_numpy()
        integers = numbers if numbers.dtype.kind in "iu" else _integers(np.asarray(numbers, dtype=np.float64))
        plain = pd.Series(integers)
    return np.asarray(pd.util.hash_pandas_object(plain, index=False), dtype=np.uint64)


def _integers(numbers: npt.NDArray[np.float64]) -> npt.NDArray[np.int64]:
    """Return whole numbers as they are, and the bits of others."""
    plain = np.isfinite(numbers) & (np.abs(numbers) < 2.0**63) & (numbers == np.rint(numbers))
    return np.where(plain, np.where(plain, numbers, 0.0).astype(np.int64), numbers.view(np.int64))


def whole(value: Any) -> Any:
    """Unwrap a numpy scalar and read 3.0 as 3; what cannot be hashed stands for itself in words."""
    plain = value.item() if isinstance(value, np.generic) else value
    if isinstance(plain, float) and plain.is_integer():
        return int(plain)
    return plain if isinstance(plain, str | int | float) else str(plain)


def word(value: Any) -> str:
    """Return a category as text: 3 that came as 3.0 is still 3."""
    return str(whole(value))


def hashes(values: pd.Series[Any], dtype: Literal["number", "text", "tensor"]) -> npt.NDArray[np.uint64]:
    """Return a number for each cell ``[rows]``: the same for the same value in whatever storage; 0 where missing."""
    missing = values.isna().to_numpy()
    if dtype == "tensor":
        found = np.array([0 if gone else _of_tensor(v) for v, gone in zip(values, missing, strict=True)], np.uint64)
    elif dtype == "number":
        numbers = pd.to_numeric(values, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
        found = np.asarray(pd.util.hash_array(numbers + 0.0), dtype=np.uint64)  # adding 0 makes -0 the same as 0
        missing = np.isnan(numbers)
    else:
        codes, different = _factorized(values)
        words = np.array([word(v) for v in different], dtype=object)
        found = np.append(pd.util.hash_array(words), np.uint64(0))[codes] if len(words) else codes.astype(np.uint64)
    return np.where(missing, np.uint64(0), np.maximum(found, np.uint64(1)))


def _of_tensor(cell: Any) -> int:
    try:
        held = tensor(cell).astype(np.float32).tobytes()
    except (TypeError, ValueError):
        held = repr(cell).encode()
    return int.from_bytes(hashlib.blake2b(held, digest_size=DIGEST_BYTES).digest(), "little")


def _factorized(values: pd.Series[Any]) -> tuple[npt.NDArray[np.intp], Sequence[Any]]:
    """Return each value's place among the different ones, -1 where it is missing, and these."""
    try:
        codes, different = pd.factorize(values)
    except TypeError:  # what cannot be hashed, such as a list, stands for itself in words
        codes, different = pd.factorize(values.where(values.isna(), values.map(str)))
    return codes, list(different)


def instants(values: pd.Series[Any]) -> npt.NDArray[np.float64]:
    """Return timestamps as numbers that are ordered as they are ``[rows]``; NaN where there is none.

    Dates and texts become nanoseconds since 1970 (UTC); numbers stay as they are.
    """
    if pd.api.types.is_numeric_dtype(values):
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    dates = pd.to_datetime(values, utc=True, format="ISO8601", errors="coerce")
    return np.where(dates.isna(), np.nan, dates.astype("datetime64[ns, UTC]").astype(np.int64).astype(np.float64))
