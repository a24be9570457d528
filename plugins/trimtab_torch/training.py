"""The one training loop for classification, seeded to the last bit, with or without a teacher."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from trimtab.data import Data, Role, Rows
from trimtab.errors import ArtifactError, DataError, PluginError
from trimtab.technique import Job
from trimtab.window import Schema

__all__ = ["Lesson", "Settings", "fit", "one_cycle", "predict", "training_rows", "workbench"]

MOMENTUM = 0.9
WARM_UP = 0.3


@dataclass(frozen=True)
class Settings:
    """How long and how fast to train.

    Parameters
    ----------
    epochs
        Passes over the training rows.
    learning_rate
        The highest of the one-cycle schedule.
    batch_size
        Rows in one step.
    weight_decay
        L2 penalty.
    """

    epochs: int = 6
    learning_rate: float = 0.05
    batch_size: int = 64
    weight_decay: float = 5e-4

    def check(self, where: str) -> None:
        """Raise a ValueError that names the setting (``where`` and its name) when a value breaks its rule."""
        check_settings(where, asdict(self))

    def but(self, **changes: float | None) -> Settings:
        """Return these settings with every change that is not None.

        Examples
        --------
        >>> Settings().but(epochs=2, learning_rate=None)
        Settings(epochs=2, learning_rate=0.05, batch_size=64, weight_decay=0.0005)
        """
        return Settings(**{**asdict(self), **{k: v for k, v in changes.items() if v is not None}})

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Settings:
        """Read back what ``asdict`` gave."""
        try:
            return cls(**value)
        except TypeError as error:
            raise ArtifactError(
                f"training settings {dict(value)} in spec.json are not those of this version"
            ) from error


def check_settings(where: str, values: Mapping[str, float | None]) -> None:
    """Raise a ValueError for the first training setting that breaks its rule; None passes."""
    for name in ("epochs", "batch_size"):
        value = values.get(name)
        if value is not None and value < 1:
            raise ValueError(f"{where}.{name} must be at least 1, got {value}")
    rate = values.get("learning_rate")
    if rate is not None and not (rate > 0 and math.isfinite(rate)):
        raise ValueError(f"{where}.learning_rate must be above 0 and finite, got {rate}")
    decay = values.get("weight_decay")
    if decay is not None and not (decay >= 0 and math.isfinite(decay)):
        raise ValueError(f"{where}.weight_decay must be 0 or more and finite, got {decay}")


@dataclass(frozen=True)
class Lesson:
    """What a teacher says of the training rows (Hinton et al. 2015).

    Parameters
    ----------
    logits
        The teacher's, float32 ``[rows, classes]``.
    temperature
        Softens both distributions.
    weight
        Share of the teacher's term in the loss, 0 to 1; the labels have the rest.
    """

    logits: Tensor
    temperature: float
    weight: float


def training_rows(data: Data, schema: Schema) -> Rows:
    """Return the labelled training rows.

    Raises
    ------
    DataError
        When there are none, only one class occurs, or a label is outside the schema's classes.
    """
    rows = data.rows(Role.TRAIN)
    rows = rows.take(rows.labels >= 0)
    if len(rows) == 0:
        raise DataError(
            "there is no labelled training row; wait for the labels of a later window, "
            "use more windows (data.train), or raise data.split.train"
        )
    present = np.unique(rows.labels)
    if present[-1] >= len(schema.classes):
        raise DataError(f"a training row has class index {present[-1]}, but the model knows {len(schema.classes)}")
    if len(present) < 2:
        raise DataError(
            f"all {len(rows)} training rows are of the one class {schema.classes[present[0]]!r}; "
            "a classifier needs at least 2: use more windows (data.train), or set data.replay"
        )
    return rows


@contextlib.contextmanager
def workbench(job: Job) -> Iterator[torch.device]:
    """Seed every generator, hold torch to the job's threads, and put all back afterwards; give the device."""
    threads, deterministic = torch.get_num_threads(), torch.backends.cudnn.deterministic
    with torch.random.fork_rng():
        torch.manual_seed(job.seed)
        torch.set_num_threads(job.threads)
        torch.backends.cudnn.deterministic = True
        try:
            yield torch.device("cuda" if torch.cuda.is_available() else "cpu")
        finally:
            torch.set_num_threads(threads)
            torch.backends.cudnn.deterministic = deterministic


def one_cycle(step: int, steps: int) -> float:
    """Return the factor of the highest learning rate at ``step`` of ``steps``: up in a line, down in a cosine.

    Examples
    --------
    >>> [round(one_cycle(s, 10), 2) for s in (0, 2, 3, 6, 9)]
    [0.33, 1.0, 1.0, 0.61, 0.05]
    """
    peak = max(1, round(WARM_UP * steps))
    if step < peak:
        return (step + 1) / peak
    return 0.5 * (1 + math.cos(math.pi * (step - peak) / (steps - peak)))


def fit(
    network: nn.Module,
    parts: Sequence[Tensor],
    labels: Tensor,
    settings: Settings,
    job: Job,
    where: str,
    lesson: Lesson | None = None,
) -> float:
    """Train ``network`` in place: SGD with Nesterov momentum, one cycle, cross entropy.

    Parameters
    ----------
    parts
        The network's arguments over all rows, preprocessed.
    labels
        Class indices, int64 ``[rows]``.
    where
        What trains, for messages.
    lesson
        A teacher's words on the same rows, to learn from beside the labels.

    Returns
    -------
    float
        Mean loss of the last epoch.

    Raises
    ------
    PluginError
        When the loss is no longer finite.
    """
    with workbench(job) as device:
        network.to(device).train()
        try:
            return _epochs(network, [p.to(device) for p in parts], labels.to(device), settings, job, where, lesson)
        finally:
            network.cpu().eval()


def _epochs(
    network: nn.Module,
    parts: Sequence[Tensor],
    labels: Tensor,
    settings: Settings,
    job: Job,
    where: str,
    lesson: Lesson | None,
) -> float:
    taught = lesson.logits.to(labels.device) if lesson else None
    weights = [p for p in network.parameters() if p.requires_grad]
    sgd = torch.optim.SGD(weights, lr=0.0, momentum=MOMENTUM, nesterov=True, weight_decay=settings.weight_decay)
    order = torch.Generator().manual_seed(job.seed)
    steps, step, mean = settings.epochs * len(_batches(torch.arange(len(labels)), settings)), 0, math.nan
    for epoch in range(settings.epochs):
        losses: list[Tensor] = []
        for batch in _batches(torch.randperm(len(labels), generator=order), settings):
            index = batch.to(labels.device)
            sgd.param_groups[0]["lr"] = settings.learning_rate * one_cycle(step, steps)
            logits = network(*(p[index] for p in parts))
            loss = functional.cross_entropy(logits, labels[index])
            if lesson is not None and taught is not None:
                loss = (1 - lesson.weight) * loss + lesson.weight * _distance(logits, taught[index], lesson.temperature)
            sgd.zero_grad(set_to_none=True)
            loss.backward()  # type: ignore[no-untyped-call]
            sgd.step()
            losses.append(loss.detach())
            step += 1
        mean = float(torch.stack(losses).mean())
        if not math.isfinite(mean):
            raise PluginError(
                f"{where} diverged in epoch {epoch + 1} of {settings.epochs} (loss {mean}) at learning_rate "
                f"{settings.learning_rate}; lower it, to {settings.learning_rate / 5:.2g} say, "
                "or check the features for extreme values"
            )
    return mean


def _batches(order: Tensor, settings: Settings) -> list[Tensor]:
    """Cut an order of rows into batches; a last one of a single row is left out, for batch norm needs two."""
    batches = list(torch.split(order, settings.batch_size))
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


def _distance(logits: Tensor, taught: Tensor, temperature: float) -> Tensor:
    """Return the Kullback-Leibler divergence of the softened distributions, on the scale of cross entropy."""
    student = functional.log_softmax(logits / temperature, dim=1)
    teacher = functional.log_softmax(taught / temperature, dim=1)
    return functional.kl_div(student, teacher, reduction="batchmean", log_target=True) * temperature**2


def predict(network: nn.Module, parts: Sequence[Tensor], job: Job, batch: int = 512) -> Tensor:
    """Return the network's logits on all rows, float32 ``[rows, classes]``."""
    with workbench(job) as device, torch.inference_mode():
        network.to(device).eval()
        try:
            count = len(parts[0])
            slices = [slice(start, start + batch) for start in range(0, count, batch)]
            return torch.cat([network(*(p[s].to(device) for p in parts)).cpu() for s in slices])
        finally:
            network.cpu()
