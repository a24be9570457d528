"""What lies between a raw row and a network and behind it, fitted on training rows and exported with the network."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from trimtab.errors import DataError, PluginError
from trimtab.window import NUMERIC_INPUT, Arrays, Column, Schema

__all__ = ["Preprocess", "blank_rows", "to_tensors"]


class Preprocess(nn.Module):
    """Maps raw encoded inputs to what a network takes, and what it gives to what serves.

    Numbers are imputed by the training mean and standardised; integer and text categories become
    one-hot by the schema's levels (an unseen level or a missing one: all zeros); together they are
    one table ``[rows, width]``. Each tensor is standardised per channel, the axis after the rows,
    and stays an argument of its own. A network of a regression works on standardised labels, and
    :meth:`serve` brings its outputs back to the label's units; logits become probabilities.
    Statistics are those of :meth:`fit`; before it, 0 and 1.

    Parameters
    ----------
    schema
        Of the rows.

    Raises
    ------
    PluginError
        When a feature is free text.

    Examples
    --------
    >>> import pandas as pd
    >>> from trimtab.window import Feature
    >>> frame = pd.DataFrame({"a": [1.0, 3.0], "c": ["x", "y"]})
    >>> schema = Schema.freeze({"a": Feature(), "c": Feature(kind="categorical")}, frame)
    >>> preprocess = Preprocess(schema)
    >>> preprocess.fit(schema.encode(frame))
    >>> preprocess(*to_tensors(schema, schema.encode(frame)))[0].tolist()
    [[-1.0, 1.0, 0.0], [1.0, 0.0, 1.0]]
    """

    measure_columns: Tensor
    level_columns: Tensor
    levels: Tensor
    mean: Tensor
    sd: Tensor
    label_mean: Tensor
    label_sd: Tensor

    def __init__(self, schema: Schema) -> None:
        super().__init__()
        if free := [c.name for c in schema.columns if c.feature.kind == "text"]:
            raise PluginError(
                f"features.{free[0]}.kind is text, and the networks of these trainers read no free text; "
                "set it to categorical, leave the column out, or name model.trainer: sklearn.classifier"
            )
        self.inputs = schema.inputs
        coded = [c for c in schema.columns if c.coded]
        self.measures = [i for i, c in enumerate(coded) if not is_category(c)]
        levels = [(i, float(level)) for i, c in enumerate(coded) if is_category(c) for level in c.levels]
        self.texts = {c.name: len(c.levels) for c in schema.columns if c.dtype == "text"}
        self.width = len(self.measures) + len(levels) + sum(self.texts.values())
        self.coded = len(coded)
        self.register_buffer("measure_columns", torch.tensor(self.measures, dtype=torch.int64), persistent=False)
        self.register_buffer("level_columns", torch.tensor([i for i, _ in levels], dtype=torch.int64), persistent=False)
        self.register_buffer("levels", torch.tensor([level for _, level in levels]), persistent=False)
        self.register_buffer("mean", torch.zeros(len(self.measures)))
        self.register_buffer("sd", torch.ones(len(self.measures)))
        for name, shape in self._tensors():
            self.register_buffer(f"{name}_mean", torch.zeros(shape))
            self.register_buffer(f"{name}_sd", torch.ones(shape))
        self.regression = schema.task == "regression"
        if self.regression:
            self.register_buffer("label_mean", torch.zeros(1))
            self.register_buffer("label_sd", torch.ones(1))

    def _tensors(self) -> list[tuple[str, tuple[int, ...]]]:
        """Name each tensor's statistics by its place, since a feature's name may hold dots, with their shape."""
        shapes = [i.shape for i in self.inputs if i.dtype == "float32" and i.name != NUMERIC_INPUT]
        return [(f"tensor{at}", (*s[:1], *(1 for _ in s[1:]))) for at, s in enumerate(shapes)]

    def fit(self, inputs: Arrays, labels: npt.NDArray[Any] | None = None) -> None:
        """Take means and standard deviations from training rows, a regression's also from their labels.

        Raises
        ------
        DataError
            When a tensor holds a value that is not finite.
        """
        if self.regression and labels is not None:
            mean, sd = _moments(labels[:, None])
            self.label_mean.copy_(torch.from_numpy(mean))
            self.label_sd.copy_(torch.from_numpy(sd))
        if self.measures:
            mean, sd = _moments(inputs[NUMERIC_INPUT][:, self.measures])
            self.mean.copy_(torch.from_numpy(mean))
            self.sd.copy_(torch.from_numpy(sd))
        tensors = [i.name for i in self.inputs if i.dtype == "float32" and i.name != NUMERIC_INPUT]
        for feature, (name, shape) in zip(tensors, self._tensors(), strict=True):
            values = inputs[feature]
            if not np.isfinite(values).all():
                raise DataError(
                    f"tensor column {feature!r} holds values that are not finite in its training rows; "
                    f"mend the source, or declare features.{feature}.minimum so that such windows are quarantined"
                )
            channels = np.moveaxis(values, 1, -1) if values.ndim > 1 else values[:, None]
            mean, sd = _moments(channels.reshape(-1, channels.shape[-1]))
            self.get_buffer(f"{name}_mean").copy_(torch.from_numpy(mean).reshape(shape))
            self.get_buffer(f"{name}_sd").copy_(torch.from_numpy(sd).reshape(shape))

    def forward(self, *raw: Tensor) -> tuple[Tensor, ...]:
        """Map raw inputs in the schema's order (text as int64 codes ``[rows, 1]``) to the network's arguments."""
        table: list[Tensor] = []
        tensors: list[Tensor] = []
        for given, value in zip(self.inputs, raw, strict=True):
            if given.name == NUMERIC_INPUT:
                table += self._numbers(value)
            elif given.dtype == "text":
                codes = torch.arange(self.texts[given.name], device=value.device)
                table.append((value == codes).to(torch.float32))
            else:
                name = f"tensor{len(tensors)}"
                tensors.append((value - self.get_buffer(f"{name}_mean")) / self.get_buffer(f"{name}_sd"))
        if not table:
            return tuple(tensors)
        return (torch.cat(table, dim=1) if len(table) > 1 else table[0], *tensors)

    def serve(self, outputs: Tensor) -> Tensor:
        """Map a network's outputs to probabilities ``[rows, classes]``, or predictions in label units ``[rows, 1]``."""
        return outputs * self.label_sd + self.label_mean if self.regression else torch.softmax(outputs, dim=1)

    def into(self, other: Preprocess) -> tuple[float, float]:
        """Return factor and offset that bring outputs behind this one into the units of those behind ``other``."""
        if not self.regression:
            return 1.0, 0.0
        sd = float(other.label_sd)
        return float(self.label_sd) / sd, (float(self.label_mean) - float(other.label_mean)) / sd

    def targets(self, labels: npt.NDArray[Any]) -> Tensor:
        """Map labels to what a network is trained to: int64 ``[rows]``, or standardised float32 ``[rows, 1]``."""
        if not self.regression:
            return torch.from_numpy(labels)
        centred = (labels - self.label_mean.double().numpy()) / self.label_sd.double().numpy()
        return torch.from_numpy(centred[:, None].astype(np.float32))

    def _numbers(self, value: Tensor) -> list[Tensor]:
        parts: list[Tensor] = []
        if self.measures:
            # Picking every column in order would cost a node of the exported graph for nothing.
            whole = len(self.measures) == self.coded
            measures = value if whole else value.index_select(1, self.measure_columns)
            filled = torch.where(torch.isnan(measures), self.mean, measures)
            parts.append((filled - self.mean) / self.sd)
        if len(self.levels):
            parts.append(torch.eq(value.index_select(1, self.level_columns), self.levels).to(torch.float32))
        return parts


def is_category(column: Column) -> bool:
    """Return whether a column holds categories, as integers or as text."""
    return column.feature.kind == "categorical"


def to_tensors(schema: Schema, inputs: Arrays) -> tuple[Tensor, ...]:
    """Turn encoded inputs into tensors in the schema's order; text becomes int64 codes ``[rows, 1]``, unseen -1."""
    levels = {c.name: c.levels for c in schema.columns}
    return tuple(
        torch.from_numpy(_codes(inputs[i.name], levels[i.name]))
        if i.dtype == "text"
        else torch.from_numpy(np.ascontiguousarray(inputs[i.name], dtype=np.float32))
        for i in schema.inputs
    )


def blank_rows(schema: Schema, rows: int) -> dict[str, npt.NDArray[np.generic]]:
    """Return ``rows`` rows of zeros and empty texts: an example where only shapes matter."""
    return {
        i.name: np.zeros((rows, *i.shape), dtype=np.str_ if i.dtype == "text" else np.float32) for i in schema.inputs
    }


def _codes(texts: npt.NDArray[np.generic], levels: tuple[str | int, ...]) -> npt.NDArray[np.int64]:
    index = {str(level): code for code, level in enumerate(levels)}
    values, inverse = np.unique(texts.astype(np.str_), return_inverse=True)
    codes = np.asarray([index.get(str(v), -1) for v in values], dtype=np.int64)
    return codes[inverse].reshape(texts.shape)


def _moments(columns: npt.NDArray[np.generic]) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]:
    """Return mean and standard deviation per column over finite values; 0 and 1 for none, 1 for a constant."""
    values = columns.astype(np.float64)
    known = np.isfinite(values)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known, values, 0.0).sum(axis=0) / count
    sd = np.sqrt(np.where(known, (values - mean) ** 2, 0.0).sum(axis=0) / count)
    sd = np.where(sd > 1e-7 * np.maximum(1.0, np.abs(mean)), sd, 1.0)
    return mean.astype(np.float32), sd.astype(np.float32)
