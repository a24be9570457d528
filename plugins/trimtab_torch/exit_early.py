"""Early exits: rows that are easy leave the network halfway."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime
import torch
from onnx import helper
from torch import Tensor
from torch.nn import functional

from trimtab.agreement import loss
from trimtab.artifact import FLOAT, ONNX, Model, write_json
from trimtab.data import Data, Role, Rows
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab_torch.deadline import tick
from trimtab_torch.exits import SPATIAL, Array, Cut, Exit, costs, cuts, pooled, products, with_exit
from trimtab_torch.export import EMBEDDING, FILE, PROBABILITIES, Export
from trimtab_torch.training import workbench

__all__ = ["ExitEarly"]

SLICE = 256
PENALTY = 1e-4
"""L2 of the exit's weights, for standardised features."""
STEPS = 60
"""Of L-BFGS; the loss is convex."""
SAVES = 0.97
"""What is left of the multiply-adds must be less than this, or an exit is not worth its own."""


@dataclass(frozen=True)
class ExitEarly:
    """Export with an exit in the middle, by which rows leave whose answer is sure there (BranchyNet, 2016).

    At every place where the graph hangs on a single value, a linear classifier learns the network's own
    answers from the mean over that value's positions (Teerapittayanon et al. 2016, with the network's
    weights left alone), and the probability from which it is believed is set so that on held rows no more
    than ``max_drop`` is lost. The place stays that saves the most. In the graph the rest lies under an ``If`` and
    works on the rows that stay: at batch 1 an easy row is done early, in a batch the rest works on fewer rows.
    No row's answer depends on the others.

    How long a row takes then depends on the row. ``embedding`` becomes what the exit looks at. Later
    techniques see a graph with an ``If``; none of the quantizations looks into it, as their facts say
    (``kept_in_float``). ``facts.json`` tells the place (``exit``), the rows that left among the held ones
    (``exits``), the ``threshold`` and the multiply-adds that a held row takes on average. Takes seconds; no label
    is read.

    Parameters
    ----------
    max_drop
        Largest loss of quality on held rows, as a fraction (0.01 = one point of accuracy), by the network's own
        probabilities.
    rows
        Most training rows that exits learn from, and most held rows that set their thresholds.
    opset
        As ``export`` has it.

    Raises
    ------
    DataError
        When there is no row.
    PluginError
        When the network does not export, is a regression, or nothing is saved anywhere.

    Examples
    --------
    >>> ExitEarly(max_drop=-1.0)
    Traceback (most recent call last):
    ...
    ValueError: exit.early.max_drop must be in [0, 1), got -1.0
    """

    max_drop: float = 0.01
    rows: int = 2048
    opset: int = 20

    about: ClassVar[About] = About(
        name="exit.early",
        takes=FLOAT,
        gives=ONNX,
        needs_data=True,
        faster_on=("onnxruntime",),
        libraries=("torch", "onnx", "onnxscript", "onnxruntime"),
    )

    def __post_init__(self) -> None:
        if not 0 <= self.max_drop < 1:
            raise ValueError(f"exit.early.max_drop must be in [0, 1), got {self.max_drop}")
        if self.rows < 2:
            raise ValueError(f"exit.early.rows must be at least 2, got {self.rows}")
        Export(self.opset)

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the exported model with its exit into ``job.folder``."""
        if job.schema.task == "regression":
            raise PluginError(
                "exit.early asks how sure a classification is, and this is a regression; leave it out of "
                "optimize.techniques"
            )
        tick(job.deadline, "exit.early", "lower exit.early.rows")
        train = data.first(self.rows, Role.TRAIN, Role.CALIBRATION)
        held = data.first(self.rows, Role.SEARCH, Role.CALIBRATION, Role.TRAIN)
        facts = Export(self.opset).apply(model, data, job).facts
        path = job.folder / FILE
        proto = onnx.load(str(path))
        with workbench(job):
            looked = _Looked.at(proto, train, held, job.threads)
            found = [self._tried(looked, cut, job) for cut in looked.cuts]
            best = min(found, key=lambda t: t.cost, default=None)
            if best is None or best.cost >= SAVES * looked.total:
                raise PluginError(_nothing(found, looked.total, self.max_drop))
        made = with_exit(proto, best.leave, PROBABILITIES, EMBEDDING)
        onnx.save_model(made, str(path))
        answers = _run(_session(made, job.threads), [PROBABILITIES], held)[0]
        facts |= {
            "exit": {"value": best.leave.cut.value, "multiply_adds": best.leave.cut.before},
            "exits": round(best.share, 6),
            "threshold": best.leave.threshold,
            "agreement_loss": loss(looked.held_answers, answers),
            "held_rows": len(held),
            "multiply_adds_before": looked.total,
            "multiply_adds": round(best.cost),
        }
        write_json(job.folder / "facts.json", facts)
        return Model.at(job.folder, ONNX)

    def _tried(self, looked: _Looked, cut: Cut, job: Job) -> _Tried:
        tick(job.deadline, "exit.early", "lower exit.early.rows")
        weight, bias = _learnt(looked.train[cut.mean], looked.train_answers)
        early = _softmax(looked.held[cut.mean] @ weight.T + bias)
        sure = early.max(axis=1)
        threshold, left = _threshold(sure, early, looked.held_answers, self.max_drop)
        own = int(weight.size)
        cost = cut.before + own + (1 - left) * (looked.total - cut.before)
        return _Tried(Exit(cut, weight, bias, threshold), left, cost)


@dataclass(frozen=True)
class _Tried:
    """An exit, the share of held rows that leave there, and the multiply-adds that one takes on average."""

    leave: Exit
    share: float
    cost: float


def _nothing(found: Sequence[_Tried], total: int, max_drop: float) -> str:
    if not found:
        return (
            "exit.early finds no place where the graph hangs on one value with a row on each line; leave it out of "
            "optimize.techniques"
        )
    best = min(found, key=lambda t: t.cost)
    return (
        f"exit.early saves nothing: at its best place {best.share:.0%} of the held rows would leave within max_drop "
        f"{max_drop}, and a row takes {best.cost / total:.3f} of the multiply-adds; raise max_drop, or leave "
        "exit.early out of optimize.techniques"
    )


@dataclass(frozen=True)
class _Looked:
    """What a graph holds at each of its cuts, on rows to learn from and on held ones.

    Parameters
    ----------
    cuts, total
        Of the graph, and its multiply-adds.
    train, held
        Features at each cut, ``[rows, features]``, by the cut's ``mean``.
    train_answers, held_answers
        Of the whole network, ``[rows, classes]``.
    """

    cuts: tuple[Cut, ...]
    total: int
    train: dict[str, Array]
    held: dict[str, Array]
    train_answers: Array
    held_answers: Array

    @classmethod
    def at(cls, proto: onnx.ModelProto, train: Rows, held: Rows, threads: int) -> _Looked:
        """Run the graph, with its inner values as outputs."""
        graph = proto.graph
        constants = {t.name for t in graph.initializer}
        seen = {n for node in products(graph) for n in (node.input[0], node.output[0])} - constants
        one, two = held.take(np.arange(1)), held.take(np.arange(2) % len(held))
        spent = costs(graph, _shapes(proto, sorted(seen), one, threads))
        places = [
            replace(cut, over=over)
            for cut, axes in _of_rows(proto, cuts(graph, spent), (one, two), threads)
            for over in SPATIAL.get(axes, ())
        ]
        session = _session(_pooling(proto, places), threads)
        names = [cut.mean for cut in places]
        (given, *train_side), (final, *held_side) = (
            _run(session, [PROBABILITIES, *names], rows) for rows in (train, held)
        )
        learnt, judged = (dict(zip(names, side, strict=True)) for side in (train_side, held_side))
        return cls(tuple(places), sum(spent), learnt, judged, given, final)


def _of_rows(
    proto: onnx.ModelProto, places: Sequence[Cut], rows: tuple[Rows, Rows], threads: int
) -> list[tuple[Cut, int]]:
    """Return the cuts whose value has the rows on its first axis and nowhere else, each with its number of axes.

    Parameters
    ----------
    rows
        One, and two.
    """
    one, two = (_shapes(proto, [c.value for c in places], some, threads) for some in rows)
    return [(c, len(one[c.value])) for c in places if two[c.value] == (2, *one[c.value][1:]) and one[c.value][0] == 1]


def _pooling(proto: onnx.ModelProto, places: Sequence[Cut]) -> onnx.ModelProto:
    """Return the model with the mean of each cut's value as outputs more."""
    more = onnx.ModelProto()
    more.CopyFrom(proto)
    for cut in places:
        nodes, constants = pooled(cut, cut.mean)
        more.graph.node.extend(nodes)
        more.graph.initializer.extend(constants)
        more.graph.output.append(helper.make_tensor_value_info(cut.mean, onnx.TensorProto.FLOAT, None))
    return more


def _shapes(proto: onnx.ModelProto, names: Sequence[str], row: Rows, threads: int) -> dict[str, tuple[int, ...]]:
    """Return the shapes that inner values have for a row."""
    own = [i.name for i in proto.graph.input]
    inner = [name for name in names if name not in own]
    more = onnx.ModelProto()
    more.CopyFrom(proto)
    present = {o.name for o in more.graph.output}
    more.graph.output.extend(
        helper.make_tensor_value_info(n, onnx.TensorProto.FLOAT, None) for n in inner if n not in present
    )
    found = {name: values.shape for name, values in zip(inner, _run(_session(more, threads), inner, row), strict=True)}
    return found | {name: row.inputs[name].shape for name in names if name in own}


def _session(proto: onnx.ModelProto, threads: int) -> onnxruntime.InferenceSession:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    return onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])


def _run(session: onnxruntime.InferenceSession, names: Sequence[str], rows: Rows) -> list[Array]:
    given = [i.name for i in session.get_inputs()]
    parts = [
        session.run(list(names), {n: rows.inputs[n][at : at + SLICE] for n in given})
        for at in range(0, len(rows), SLICE)
    ]
    return [np.concatenate(values) for values in zip(*parts, strict=True)] if names else []


def _learnt(features: Array, answers: Array) -> tuple[Array, Array]:
    """Fit a linear classifier to a network's answers, and return its weight ``[classes, features]`` and bias."""
    mean, sd = features.mean(axis=0), features.std(axis=0)
    sd = np.where(sd > 1e-6, sd, 1.0).astype(np.float32)
    given, wanted = torch.from_numpy((features - mean) / sd), torch.from_numpy(answers)
    weight = torch.zeros(answers.shape[1], features.shape[1], requires_grad=True)
    bias = torch.zeros(answers.shape[1], requires_grad=True)
    steps = torch.optim.LBFGS([weight, bias], max_iter=STEPS, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        steps.zero_grad()
        value = functional.cross_entropy(given @ weight.T + bias, wanted) + PENALTY * weight.square().sum()
        value.backward()  # type: ignore[no-untyped-call]
        return value

    with torch.enable_grad():
        steps.step(closure)  # type: ignore[no-untyped-call]
    plain = weight.detach().numpy() / sd
    return plain.astype(np.float32), (bias.detach().numpy() - plain @ mean).astype(np.float32)


def _softmax(logits: Array) -> Array:
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    found: Array = (powers / powers.sum(axis=1, keepdims=True)).astype(np.float32)
    return found


def _threshold(sure: Array, early: Array, final: Array, most: float) -> tuple[float, float]:
    """Return the least sureness at which rows may leave at a loss of ``most``, and the share that then leaves.

    Examples
    --------
    >>> final = np.array([[0.9, 0.1], [0.2, 0.8], [0.3, 0.7]], np.float32)
    >>> early = np.array([[0.99, 0.01], [0.1, 0.9], [0.6, 0.4]], np.float32)
    >>> threshold, share = _threshold(early.max(axis=1), early, final, 0.01)
    >>> round(threshold, 2), round(share, 2)
    (0.9, 0.67)
    """
    order = np.argsort(-sure, kind="stable")
    rows = np.arange(len(final))
    lost = (final.max(axis=1) - final[rows, early.argmax(axis=1)])[order].astype(np.float64).cumsum() / len(final)
    ranked = sure[order]
    ends = np.append(ranked[1:] < ranked[:-1], True)  # rows that are equally sure leave together
    possible = np.flatnonzero((lost <= most) & ends)
    if not len(possible):
        return math.inf, 0.0
    return float(ranked[possible[-1]]), float(possible[-1] + 1) / len(final)
