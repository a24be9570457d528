"""Rows as MLflow's dataset inputs: named, digested and described, without sending the rows."""

from __future__ import annotations

import hashlib
import json
import warnings
from typing import Any

import mlflow.data
import numpy as np
import numpy.typing as npt
import pandas as pd
from mlflow.entities import Dataset, DatasetInput, InputTag

from trimtab.registry import DatasetLog
from trimtab_mlflow.server import GLOBAL_STATE

__all__ = ["dataset_input", "digest_of"]

HASHED_ROWS = 10_000
DESCRIBED_ROWS = 20
SEQUENCES = (list, tuple, np.ndarray)


def dataset_input(log: DatasetLog) -> DatasetInput:
    """Return the dataset input of a run: name, digest, source, column types and number of rows.

    Column types are read off the first 20 rows; the digest is :func:`digest_of`.
    """
    label = log.label if log.label in log.frame else None
    # MLflow warns about integer columns and about sources that look like paths, to no use here;
    # the filters are the process's, hence the lock.
    with GLOBAL_STATE, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        described = mlflow.data.from_pandas(
            log.frame.head(DESCRIBED_ROWS),
            source=log.source,
            targets=label,
            name=log.name,
            digest=digest_of(log.frame),
        ).to_dict()
    profile = {"num_rows": len(log.frame), "num_elements": int(log.frame.size)}
    dataset = Dataset(
        name=described["name"],
        digest=described["digest"],
        source_type=described["source_type"],
        source=described["source"],
        schema=described["schema"],
        profile=json.dumps(profile),
    )
    return DatasetInput(dataset, tags=[InputTag("mlflow.data.context", log.context)])


def digest_of(frame: pd.DataFrame) -> str:
    """Return 16 hexadecimal digits of the SHA-256 over column names, the number of rows, and the rows.

    Of more than 10,000 rows, 10,000 evenly spaced ones (the first and the last among them) are read:
    it tells data sets apart in MLflow; integrity is the journal's and the package's affair.

    Examples
    --------
    >>> frame = pd.DataFrame({"a": [1, 2], "image": [[0.0, 1.0], [2.0, 3.0]]})
    >>> digest_of(frame) == digest_of(frame.copy()), digest_of(frame) == digest_of(frame[::-1])
    (True, False)
    """
    rows = np.unique(np.linspace(0, len(frame) - 1, min(len(frame), HASHED_ROWS)).round().astype(int))
    sha = hashlib.sha256(json.dumps([len(frame), [str(c) for c in frame.columns]]).encode())
    for _, column in frame.iloc[rows].items():
        sha.update(_column_bytes(column))
    return sha.hexdigest()[:16]


def _column_bytes(column: pd.Series[Any]) -> bytes:
    if column.dtype == object:
        column = column.map(_cell_text)
    return pd.util.hash_pandas_object(column, index=False).to_numpy().tobytes()


def _cell_text(cell: object) -> str:
    """Name a cell by its type and content; a tensor, flat or nested, by the digest of its float32 bytes."""
    if isinstance(cell, SEQUENCES):
        return f"tensor {hashlib.sha256(_flat(cell).tobytes()).hexdigest()}"
    return f"{type(cell).__name__} {cell}"


def _flat(cell: object) -> npt.NDArray[np.float32]:
    """Return a cell's numbers in order; nested lists come out of Parquet as arrays of arrays."""
    try:
        return np.asarray(cell, dtype=np.float32).ravel()
    except (TypeError, ValueError):
        if isinstance(cell, SEQUENCES) and len(cell):
            return np.concatenate([_flat(part) for part in cell])
        return np.frombuffer(str(cell).encode(), dtype=np.uint8).astype(np.float32)
