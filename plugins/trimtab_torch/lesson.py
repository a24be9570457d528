"""What a student learns from a teacher: its softened answers, and what its last hidden layer holds."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from trimtab_torch.augment import View, pick
from trimtab_torch.layers import executed
from trimtab_torch.settings import Settings

__all__ = ["Answer", "Lecture", "Lesson", "Tap", "Teacher"]

SLICE = 512


class Answer(NamedTuple):
    """Raw outputs of a network ``[rows, outputs]`` and, where asked for, its last hidden layer ``[rows, width]``."""

    outputs: Tensor
    hidden: Tensor | None


class Tap:
    """Sees what enters the last layer that a network runs, one vector a row.

    Parameters
    ----------
    network
        In eval mode.
    examples
        Its arguments for a few rows.
    """

    def __init__(self, network: nn.Module, examples: Sequence[Tensor]) -> None:
        self._layer = list(executed(network, examples).values())[-1]
        self._seen: list[Tensor] = []
        self._hook = self._layer.register_forward_pre_hook(lambda _m, inputs: self._seen.append(inputs[0]))
        with torch.no_grad():
            network(*examples)
        self.width = self.take().shape[1]

    def take(self) -> Tensor:
        """Return what the last call held, float32 ``[rows, width]``: the mean over positions where there are any."""
        seen = self._seen[-1].float()
        self._seen.clear()
        if isinstance(self._layer, nn.Linear):
            return seen.flatten(1, -2).mean(dim=1) if seen.dim() > 2 else seen
        return seen.flatten(2).mean(dim=2)

    def close(self) -> None:
        """Stop looking."""
        self._hook.remove()


@dataclass(frozen=True)
class Teacher:
    """Networks that answer together.

    Parameters
    ----------
    networks
        In eval mode. Their probabilities (of a regression: their predictions) are averaged; the hidden
        layer is that of the first.
    parts
        Their arguments for the student's training rows, in the same order.
    factor, offset
        Bring a regression's outputs from the teacher's units into the student's.
    """

    networks: Sequence[nn.Module]
    parts: Sequence[Tensor]
    factor: float = 1.0
    offset: float = 0.0

    def answer(self, parts: Sequence[Tensor], tap: Tap | None, classifies: bool) -> Answer:
        """Answer one batch; log-probabilities where it ``classifies``."""
        answers = [self.networks[0](*parts).float()]
        hidden = tap.take() if tap else None
        answers += [network(*parts).float() for network in self.networks[1:]]
        stacked = torch.stack(answers)
        if classifies:
            mean = torch.log_softmax(stacked, dim=2).logsumexp(dim=0) - math.log(len(answers))
        else:
            mean = stacked.mean(dim=0) * self.factor + self.offset
        return Answer(mean, hidden)


@dataclass(frozen=True)
class Lesson:
    """Who teaches, and how much it counts (Hinton et al. 2015; Romero et al. 2015).

    Parameters
    ----------
    teacher
        Who.
    temperature
        Softens both distributions of a classification.
    weight
        Share of the teacher's answers in the loss, 0 to 1; the labels have the rest.
    features
        Weight of the hidden layer's squared distance, in units of the teacher's variance.
    """

    teacher: Teacher
    temperature: float = 4.0
    weight: float = 0.7
    features: float = 0.0


class Lecture:
    """A lesson under way: on the device, its answers at hand where rows look alike in every epoch.

    Parameters
    ----------
    lesson
        What is taught.
    student
        In eval mode.
    parts
        The student's arguments for all rows.
    settings
        Of the training.
    device
        Where both are.
    """

    def __init__(
        self, lesson: Lesson, student: nn.Module, parts: Sequence[Tensor], settings: Settings, device: torch.device
    ) -> None:
        self._lesson, self._settings = lesson, settings
        self._parts = [part.to(device) for part in lesson.teacher.parts]
        for network in lesson.teacher.networks:
            network.to(device).eval()
        few = [part[:2] for part in self._parts]
        self._theirs = Tap(lesson.teacher.networks[0], few) if lesson.features else None
        self._own = Tap(student, [part[:2] for part in parts]) if lesson.features else None
        self._bridge: nn.Module = nn.Identity()
        if self._own and self._theirs and self._own.width != self._theirs.width:
            self._bridge = nn.Linear(self._own.width, self._theirs.width).to(device)
        self._known = None if settings.augments else self._ask_all()
        self._taught = Answer(torch.empty(0), None)

    @property
    def weights(self) -> list[nn.Parameter]:
        """What is learnt beside the student, and thrown away with this object."""
        return list(self._bridge.parameters())

    def _ask_all(self) -> Answer:
        view, count = View(), len(self._parts[0])
        slices = torch.split(torch.arange(count, device=self._parts[0].device), SLICE)
        answers = [self._ask(index, view) for index in slices]
        hidden = [a.hidden for a in answers if a.hidden is not None]
        return Answer(torch.cat([a.outputs for a in answers]), torch.cat(hidden) if hidden else None)

    def _ask(self, index: Tensor, view: View) -> Answer:
        with torch.no_grad():
            classifies = self._settings.loss == "cross_entropy"
            return self._lesson.teacher.answer(pick(self._parts, index, view), self._theirs, classifies)

    def ask(self, index: Tensor, view: View) -> None:
        """Have the teacher's answer to a batch ready: looked up, or asked for where the view is new."""
        if self._known is None:
            self._taught = self._ask(index, view)
            return
        outputs, hidden = self._known
        self._taught = Answer(outputs[index], None if hidden is None else hidden[index])

    def loss(self, outputs: Tensor, alone: Tensor) -> Tensor:
        """Return the whole loss of the batch that was asked for.

        Parameters
        ----------
        outputs
            The student's, float32; its last call was on this batch.
        alone
            The loss on the labels.
        """
        lesson, taught = self._lesson, self._taught
        loss = (1 - lesson.weight) * alone + lesson.weight * self._distance(outputs, taught.outputs)
        if self._own and taught.hidden is not None:
            gap = functional.mse_loss(self._bridge(self._own.take()), taught.hidden)
            loss = loss + lesson.features * gap / taught.hidden.var().clamp_min(1e-6)
        return loss

    def _distance(self, outputs: Tensor, taught: Tensor) -> Tensor:
        if self._settings.loss == "squared":
            return functional.mse_loss(outputs, taught)
        if self._settings.loss == "huber":
            return functional.huber_loss(outputs, taught)
        # On the scale of cross entropy: the gradient of the softened divergence shrinks by the temperature squared.
        soft = functional.log_softmax(outputs / self._lesson.temperature, dim=1)
        wanted = functional.log_softmax(taught / self._lesson.temperature, dim=1)
        divergence = functional.kl_div(soft, wanted, reduction="batchmean", log_target=True)
        return divergence * self._lesson.temperature**2

    def close(self) -> None:
        """Take the hooks out of both networks, and bring the teachers back."""
        for tap in (self._own, self._theirs):
            if tap:
                tap.close()
        for network in self._lesson.teacher.networks:
            network.cpu()
