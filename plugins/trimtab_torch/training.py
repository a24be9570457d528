"""The one training loop, seeded to the last bit, with or without a teacher, that gives up when time is out."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd

from trimtab.data import Data, Role, Rows
from trimtab.errors import DataError, PluginError
from trimtab.technique import Job
from trimtab.window import Schema
from trimtab_torch.augment import View, pick, require_images
from trimtab_torch.deadline import Clock
from trimtab_torch.emphasis import Emphasis
from trimtab_torch.lesson import Lecture, Lesson
from trimtab_torch.settings import Loss, Settings

__all__ = ["AfterStep", "fit", "one_cycle", "predict", "training_rows", "workbench"]

MOMENTUM = 0.9
WARM_UP = 0.3
SCALE = 2.0**10
"""That a float16 loss is multiplied by at first, so that small gradients do not become 0; it is adapted later."""

AfterStep = Callable[[int, int], None]
"""Called with the number of steps done and the number of all; what it does to the weights in place holds."""


def training_rows(data: Data, schema: Schema) -> Rows:
    """Return the labelled training rows.

    Raises
    ------
    DataError
        When there are none, only one class occurs, or a label is outside the schema's classes.
    """
    rows = data.rows(Role.TRAIN)
    regression = schema.task == "regression"
    rows = rows.take(np.isfinite(rows.labels) if regression else rows.labels >= 0)
    if len(rows) == 0:
        raise DataError(
            "there is no labelled training row; wait for the labels of a later window, "
            "use more windows (data.train), or raise data.split.train"
        )
    if not regression:
        _require_classes(rows, schema)
    return rows


def _require_classes(rows: Rows, schema: Schema) -> None:
    present = np.unique(rows.labels)
    if present[-1] >= len(schema.classes):
        raise DataError(f"a training row has class index {present[-1]}, but the model knows {len(schema.classes)}")
    if len(present) < 2:
        raise DataError(
            f"all {len(rows)} training rows are of the one class {schema.classes[int(present[0])]!r}; "
            "a classifier needs at least 2: use more windows (data.train), or set data.replay"
        )


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
    after_step: AfterStep | None = None,
    emphasis: Emphasis | None = None,
    rates: Mapping[nn.Parameter, float] | None = None,
) -> float:
    """Train ``network`` in place: SGD with Nesterov momentum, one cycle; give it back in eval mode.

    Parameters
    ----------
    parts
        The network's arguments over all rows, preprocessed.
    labels
        Class indices, int64 ``[rows]``; of a regression standardised labels, float32 ``[rows, 1]``.
    where
        What trains, for messages.
    lesson
        A teacher on the same rows, to learn from beside the labels.
    after_step
        Called after every step, without gradients: to hold weights in a form that training would leave.
    emphasis
        How much each row counts; None: all alike.
    rates
        Factor of the learning rate of some weights; of others it is 1.

    Returns
    -------
    float
        Mean loss of the last epoch.

    Raises
    ------
    PluginError
        When the loss is no longer finite, or images are to be augmented and there are none.
    OutOfTimeError
        When the job's deadline passes, or after the first epoch is seen to be far out of reach.
    """
    require_images(parts, settings, where)
    with workbench(job) as device:
        _lay_out(network.to(device), torch.channels_last)
        placed = [p.to(device) for p in parts]
        lecture = Lecture(lesson, network.eval(), placed, settings, device) if lesson else None
        beside = _Beside(lecture, after_step, emphasis, rates or {})
        try:
            return _epochs(network.train(), placed, labels.to(device), settings, job, where, beside)
        finally:
            if lecture:
                lecture.close()
            _lay_out(network.cpu().eval(), torch.contiguous_format)


def _lay_out(network: nn.Module, layout: torch.memory_format) -> None:
    """Lay the weights of 2-d convolutions out as their kernels read them fastest."""
    for weight in network.parameters():
        if weight.dim() == 4:
            weight.data = weight.data.contiguous(memory_format=layout)


@dataclass(frozen=True)
class _Beside:
    """What a training has beside rows and settings, as :func:`fit` was given it."""

    lecture: Lecture | None
    after_step: AfterStep | None
    emphasis: Emphasis | None
    rates: Mapping[nn.Parameter, float]


def _epochs(
    network: nn.Module,
    parts: Sequence[Tensor],
    labels: Tensor,
    settings: Settings,
    job: Job,
    where: str,
    beside: _Beside,
) -> float:
    lecture, emphasis = beside.lecture, beside.emphasis
    weights = [p for p in network.parameters() if p.requires_grad] + (lecture.weights if lecture else [])
    paced = _paced(weights, beside.rates)
    sgd = torch.optim.SGD(paced, lr=0.0, momentum=MOMENTUM, nesterov=True, weight_decay=settings.weight_decay)
    draws = torch.Generator().manual_seed(job.seed)
    clock = Clock(job.deadline, where, settings.epochs)
    dtype = _half(network, settings, labels.device)
    half = torch.autocast(labels.device.type, dtype or torch.bfloat16, enabled=dtype is not None)
    scaler = torch.amp.GradScaler(labels.device.type, init_scale=SCALE, enabled=dtype is torch.float16)
    steps, step, mean = settings.epochs * len(_batches(torch.arange(len(labels)), settings)), 0, math.nan
    for epoch in range(settings.epochs):
        losses: list[Tensor] = []
        for batch in _batches(_order(len(labels), emphasis, draws), settings):
            clock.check(epoch)
            index, view = batch.to(labels.device), View.draw(settings, len(batch), draws)
            for group in sgd.param_groups:
                group["lr"] = group["factor"] * settings.learning_rate * one_cycle(step, steps)
            with half:
                outputs = network(*pick(parts, index, view)).float()
            loss = _loss(outputs, labels[index], settings.loss, emphasis.of(batch) if emphasis else None)
            if lecture:
                with half:
                    lecture.ask(index, view)
                loss = lecture.loss(outputs, loss)
            sgd.zero_grad(set_to_none=True)
            scaler.scale(loss).backward()  # type: ignore[no-untyped-call]
            scaler.step(sgd)
            scaler.update()
            losses.append(loss.detach())
            step += 1
            if beside.after_step:
                with torch.no_grad():
                    beside.after_step(step, steps)
        mean = float(torch.stack(losses).mean())
        _require_finite(mean, epoch, settings, where)
        if epoch == 0:
            clock.project(1)
    return mean


def _paced(weights: Sequence[nn.Parameter], rates: Mapping[nn.Parameter, float]) -> list[dict[str, Any]]:
    """Group weights by the factor of their learning rate."""
    factors = [rates.get(weight, 1.0) for weight in weights]
    return [
        {"params": [w for w, own in zip(weights, factors, strict=True) if own == factor], "factor": factor}
        for factor in dict.fromkeys(factors)
    ]


def _order(rows: int, emphasis: Emphasis | None, draws: torch.Generator) -> Tensor:
    """Return the rows of one epoch in the order in which they are learnt from."""
    drawn = emphasis.draw(draws) if emphasis else None
    return torch.randperm(rows, generator=draws) if drawn is None else drawn


def _loss(outputs: Tensor, labels: Tensor, kind: Loss, weights: Tensor | None) -> Tensor:
    """Return the mean loss of a batch, or its weighted mean."""
    reduction = "mean" if weights is None else "none"
    if kind == "cross_entropy":
        loss = functional.cross_entropy(outputs, labels, reduction=reduction)
    elif kind == "squared":
        loss = functional.mse_loss(outputs, labels, reduction=reduction)
    else:
        loss = functional.huber_loss(outputs, labels, reduction=reduction)
    if weights is None:
        return loss
    placed = weights.to(loss.device)
    return (loss.flatten() * placed).sum() / placed.sum()


def _require_finite(mean: float, epoch: int, settings: Settings, where: str) -> None:
    if not math.isfinite(mean):
        raise PluginError(
            f"{where} diverged in epoch {epoch + 1} of {settings.epochs} (loss {mean}) at learning_rate "
            f"{settings.learning_rate}; lower it, to {settings.learning_rate / 5:.2g} say, "
            "or check the features for extreme values"
        )


def _half(network: nn.Module, settings: Settings, device: torch.device) -> torch.dtype | None:
    """Return the half precision of the forward pass; None where it is to be float32."""
    if settings.precision != "auto":
        return {"bfloat16": torch.bfloat16, "float16": torch.float16}.get(settings.precision)
    if not any(isinstance(m, _ConvNd) for m in network.modules()):
        return None
    if _native_bfloat16(device):
        return torch.bfloat16
    return torch.float16 if device.type == "cuda" else None


def _native_bfloat16(device: torch.device) -> bool:
    """Return whether the device computes bfloat16 itself, rather than in float32 behind the scenes."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def _batches(order: Tensor, settings: Settings) -> list[Tensor]:
    """Cut an order of rows into batches; a last one of a single row is left out, for batch norm needs two."""
    batches = list(torch.split(order, settings.batch_size))
    return batches[:-1] if len(batches) > 1 and len(batches[-1]) == 1 else batches


def predict(network: nn.Module, parts: Sequence[Tensor], job: Job, batch: int = 512) -> Tensor:
    """Return the network's raw outputs on all rows, float32 ``[rows, outputs]``."""
    with workbench(job) as device, torch.inference_mode():
        network.to(device).eval()
        try:
            slices = torch.split(torch.arange(len(parts[0])), batch)
            return torch.cat([network(*(p[s].to(device) for p in parts)).cpu() for s in slices])
        finally:
            network.cpu()
