"""Batch norm statistics of the rows as they are now: the cheapest answer to drift, without a label."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from trimtab.artifact import FLOAT, Model
from trimtab.data import Data, Role
from trimtab.errors import DataError, PluginError
from trimtab.technique import About, Job
from trimtab.window import Arrays
from trimtab_torch.deadline import Clock
from trimtab_torch.spec import FloatModel
from trimtab_torch.training import workbench

__all__ = ["Recalibrate"]

BATCH = 256


@dataclass(frozen=True)
class Recalibrate:
    """Estimate the running means and variances of batch norm anew (AdaBN, Li et al. 2016).

    They are measured on the training and calibration rows; no label is read, no weight moves, and the
    preprocessing stays. Where what the rows look like has changed (blur, contrast, noise, another
    sensor), but not what they mean, this brings back much of what was lost, in seconds.

    Parameters
    ----------
    rows
        Most rows to look at, drawn from all of them.
    prior
        Weight of the old statistics, as the number of rows they count for (Schneider et al. 2020). 0
        forgets them, which suits large changes even with a few dozen rows; a prior steadies the
        estimate where rows are fewer and the change is small.

    Examples
    --------
    >>> Recalibrate(rows=1)
    Traceback (most recent call last):
    ...
    ValueError: recalibrate.rows must be at least 2, got 1
    """

    rows: int = 4096
    prior: int = 0

    about: ClassVar[About] = About(
        name="recalibrate",
        takes=FLOAT,
        gives=FLOAT,
        renews_parent=True,
        needs_data=True,
        rung=1,
        libraries=("torch",),
    )

    def __post_init__(self) -> None:
        if self.rows < 2:
            raise ValueError(f"recalibrate.rows must be at least 2, got {self.rows}")
        if self.prior < 0:
            raise ValueError(f"recalibrate.prior must be 0 rows or more, got {self.prior}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the recalibrated model into ``job.folder``."""
        child = FloatModel.load(model, job.factory)
        rows, layers = self.renew(child, data, job)
        if not layers:
            raise PluginError(
                "recalibrate: the network has no batch norm, so nothing in the float model is to be recalibrated; "
                "leave recalibrate out of optimize.techniques (quantize.static measures its ranges anew by itself)"
            )
        return child.save(job.folder, {"rows": rows, "layers": layers})

    def renew(self, child: FloatModel, data: Data, job: Job) -> tuple[int, int]:
        """Recalibrate a model in memory; return the rows that were looked at, and the layers that were changed."""
        norms = [m for m in child.network.modules() if isinstance(m, _BatchNorm) and m.track_running_stats]
        if not norms:
            return 0, 0
        parts = child.prepare(self._draw(data, job))
        with workbench(job):
            _measure(child.network, norms, parts, self.prior, Clock(job.deadline, self.about.name, epochs=1))
        return len(parts[0]), len(norms)

    def _draw(self, data: Data, job: Job) -> Arrays:
        train, calibration = (data.rows(role).inputs for role in (Role.TRAIN, Role.CALIBRATION))
        counts = [len(next(iter(inputs.values()))) for inputs in (train, calibration)]
        total = sum(counts)
        if total < 2:
            raise DataError(
                f"recalibrate has {total} row(s) to train and calibrate on, and needs at least 2; "
                "use more windows (data.train), or raise data.split.calibration"
            )
        draws = torch.Generator().manual_seed(job.seed)
        index = torch.randperm(total, generator=draws)[: self.rows].sort().values.numpy()
        ours, theirs = index[index < counts[0]], index[index >= counts[0]] - counts[0]
        both = {k: (train[k][ours], calibration[k][theirs]) for k in train}
        mixed = torch.randperm(len(index), generator=draws).numpy()
        return {k: np.concatenate(parts)[mixed] for k, parts in both.items()}


def _measure(
    network: nn.Module, norms: Sequence[_BatchNorm], parts: Sequence[Tensor], prior: int, clock: Clock
) -> None:
    """Replace the statistics: each batch is normalised by itself, and all batches count alike."""
    count = len(parts[0])
    old = [[(name, value.clone()) for name, value in _statistics(norm)] for norm in norms]
    momenta = [norm.momentum for norm in norms]
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch then keeps the mean over the batches
        norm.train()
    with torch.no_grad():
        for index in torch.arange(count).tensor_split(math.ceil(count / BATCH)):
            clock.check(0)
            network(*(p[index] for p in parts))
    network.eval()
    for norm, before, momentum in zip(norms, old, momenta, strict=True):
        norm.momentum = momentum
        for name, value in before:
            norm.get_buffer(name).lerp_(value, prior / (prior + count))


def _statistics(norm: _BatchNorm) -> list[tuple[str, Tensor]]:
    return [(name, norm.get_buffer(name)) for name in ("running_mean", "running_var")]
