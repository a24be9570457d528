"""Weight sharing: a layer's weights take few distinct values, so that an index of some bits says which."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Literal

import numpy as np
import numpy.typing as npt
import torch
from scipy.cluster.vq import kmeans, kmeans2, vq
from torch import nn

from trimtab.artifact import FLOAT, Model
from trimtab.data import Data
from trimtab.technique import About, Job
from trimtab_torch.deadline import tick
from trimtab_torch.folding import fold
from trimtab_torch.preserve import Kept
from trimtab_torch.settings import Shaping
from trimtab_torch.spec import FloatModel, parameters
from trimtab_torch.training import fit, training_rows
from trimtab_torch.weights import distinct, require_weights, weights_of, zipped

__all__ = ["Cluster", "centroids"]

STARTS = ("linear", "density", "kmeans++")
FLOAT_BITS = 32

Values = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Cluster(Shaping):
    """Let all weights of a layer take one of few values, by k-means in one dimension (Han et al. 2016).

    Batch norms are folded into the layers before them first, as every exporter does: their factors would
    make many values of few. Weights that are zero stay zero and are a cluster of their own, so that what
    was pruned stays pruned. Training then moves all weights of a cluster together, along the sum of their
    gradients divided by their number. K-means is SciPy's.

    No runtime on a CPU that is known here computes with indices, and files are as large as before until they
    are zipped; hence it is experimental. ``facts.json`` counts the ``distinct`` values of each layer, tells
    the ``compressed_bytes`` that indices and codebooks would take beside the other weights, and
    ``zipped_bytes`` before and after. Its cost is that of training for ``epochs``; the clustering itself
    takes seconds for a million weights.

    Parameters
    ----------
    epochs
        Passes over the training rows after clustering; 0 leaves k-means' values, and null takes
        ``model.epochs``.
    learning_rate, batch_size, weight_decay, precision, flip, shift
        As the trainer has them; None takes the project's ``model`` settings.
    clusters
        Distinct values of each layer, 2 to 256: 16 are an index of 4 bits. Layers that have no more are
        left as they are.
    initial
        Where k-means begins. ``linear``: evenly from the least to the greatest weight, which keeps the few
        large ones. ``density``: evenly among the weights in order. ``kmeans++``: drawn, each far from those
        before (Arthur and Vassilvitskii 2007).

    Raises
    ------
    DataError
        When there is no labelled training row.
    PluginError
        When the network has no convolution or linear layer.

    Examples
    --------
    >>> Cluster(clusters=1)
    Traceback (most recent call last):
    ...
    ValueError: cluster.clusters must be from 2 to 256, got 1
    """

    clusters: int = 16
    initial: Literal["linear", "density", "kmeans++"] = "linear"

    about: ClassVar[About] = About(
        name="cluster",
        takes=FLOAT,
        gives=FLOAT,
        needs_data=True,
        needs_labels=True,
        effort="epochs",
        experimental=True,
        inherits=True,
        libraries=("torch", "scipy"),
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 2 <= self.clusters <= 256:
            raise ValueError(f"cluster.clusters must be from 2 to 256, got {self.clusters}")
        if self.initial not in STARTS:
            raise ValueError(f"cluster.initial must be one of {', '.join(STARTS)}, got {self.initial!r}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the clustered model into ``job.folder``."""
        whole = FloatModel.taken(model, job)
        rows, settings = training_rows(data, whole.spec.schema), self.over(whole.spec.settings)
        network, folded = fold(whole.network, whole.examples())
        child = replace(whole, spec=replace(whole.spec, structure=(*whole.spec.structure, *folded)), network=network)
        errors = self._share(network, job)
        facts: dict[str, Any] = {"epochs": settings.epochs, "rows": len(rows)}
        if settings.epochs:
            parts, targets = child.prepare(rows.inputs), child.targets(rows.labels)
            held = Kept.of(network, errors)
            facts["loss"] = fit(network, parts, targets, settings, job, self.about.name, after_step=held)
        weights = weights_of(network)
        facts |= {
            "folded": [edit.norm for edit in folded],
            "distinct": {name: [distinct(weight), weight.numel()] for name, weight in weights.items()},
            "error": errors,
            "compressed_bytes": compressed(network),
            "zipped_bytes": [zipped(whole.network), zipped(network)],
        }
        return child.save(job.folder, facts)

    def _share(self, network: nn.Module, job: Job) -> dict[str, float]:
        """Cluster each layer, and return by layer the squared error as a share of the weights' squares."""
        errors: dict[str, float] = {}
        for name, weight in require_weights(network, self.about.name).items():
            tick(job.deadline, self.about.name)
            flat = weight.detach().flatten().double().numpy()
            if distinct(weight) > self.clusters:
                rest, zero = flat != 0, int(bool((flat == 0).any()))
                shared = flat.copy()
                shared[rest] = nearest(flat[rest], centroids(flat[rest], self.clusters - zero, self.initial, job.seed))
                with torch.no_grad():
                    weight.copy_(torch.from_numpy(shared.astype(np.float32)).view(weight.shape))
                errors[name] = round(float(((shared - flat) ** 2).sum() / (flat**2).sum()), 9)
        return errors


def centroids(values: Values, count: int, initial: str, seed: int) -> Values:
    """Return at most ``count`` values that stand for all, in order: where k-means ends.

    Parameters
    ----------
    values
        Any number above ``count`` of them, flat.
    initial
        As :class:`Cluster` has it.
    seed
        Of the draws of ``kmeans++``.

    Examples
    --------
    >>> centroids(np.array([0.0, 0.1, 0.9, 1.0, 1.1]), 2, "linear", seed=0).round(3).tolist()
    [0.05, 1.0]
    """
    scale = float(values.std()) or 1.0
    points = (values / scale)[:, None]
    if initial == "linear":
        begin = np.linspace(points.min(), points.max(), count)[:, None]
    elif initial == "density":
        begin = np.quantile(points, (np.arange(count) + 0.5) / count)[:, None]
    else:
        begin = kmeans2(points, count, iter=1, minit="++", rng=np.random.default_rng(seed))[0]
    book, _ = kmeans(points, np.unique(begin, axis=0), thresh=1e-6)
    return np.sort(book[:, 0]) * scale


def nearest(values: Values, book: Values) -> Values:
    """Return for each value the one of ``book`` nearest to it."""
    places, _ = vq(values[:, None], book[:, None])
    return np.asarray(book[places])


def compressed(network: nn.Module) -> int:
    """Return the bytes of a network stored as indices, one codebook a layer, and floats for all other weights."""
    shared = weights_of(network)
    bits = (parameters(network) - sum(weight.numel() for weight in shared.values())) * FLOAT_BITS
    for weight in shared.values():
        count = distinct(weight)
        indexed = weight.numel() * max(1, math.ceil(math.log2(count))) + count * FLOAT_BITS
        bits += min(indexed, weight.numel() * FLOAT_BITS)
    return math.ceil(bits / 8)
