"""Graph optimization done once and stored, instead of at every load."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal

import onnx
import onnxruntime

from trimtab.artifact import ONNX, Model, write_json
from trimtab.data import Data
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab_onnx.runtime import ERRORS, LEVELS
from trimtab_onnx.slim import slim

__all__ = ["OptimizeGraph"]

STORED = ("basic", "extended", "all")
MOST_BYTES = int(1.5 * 2**30)
"""Beyond this the weights lie beside the graph, and this technique leaves such a model to the runtime."""


@dataclass(frozen=True)
class OptimizeGraph:
    """Let onnxruntime fuse and fold the graph now, and store the result without what no runtime reads.

    It makes loading faster, not calls: a session does the same to the graph when it loads it. Hence it is
    experimental, and in no default search.

    Parameters
    ----------
    level
        ``basic`` (constants folded; the operators of ONNX alone), ``extended`` (onnxruntime's fused operators:
        no other runtime loads it), or ``all`` (tensors laid out for this processor as well: on another kind of
        processor it is slow or does not load, and the facts say ``portable: false``).

    Examples
    --------
    >>> OptimizeGraph(level="most")
    Traceback (most recent call last):
    ...
    ValueError: optimize.graph.level must be one of basic, extended, all, got 'most'
    """

    level: Literal["basic", "extended", "all"] = "extended"

    about: ClassVar[About] = About(
        name="optimize.graph", takes=ONNX, gives=ONNX, experimental=True, libraries=("onnx", "onnxruntime")
    )

    def __post_init__(self) -> None:
        if self.level not in STORED:
            raise ValueError(f"optimize.graph.level must be one of {', '.join(STORED)}, got {self.level!r}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the optimized graph into ``job.folder``.

        Raises
        ------
        PluginError
            When the model is larger than one file may be.
        """
        source, target = model.folder / "model.onnx", job.folder / "model.onnx"
        if model.size_bytes > MOST_BYTES:
            raise PluginError(
                f"optimize.graph takes models of at most {MOST_BYTES / 1e9:.1f} GB, this one has "
                f"{model.size_bytes / 1e9:.1f} GB; leave optimize.graph out of optimize.techniques"
            )
        with tempfile.TemporaryDirectory() as scratch:
            optimized = Path(scratch) / "model.onnx"
            onnxruntime.InferenceSession(
                str(source), self._options(optimized, job.threads), providers=["CPUExecutionProvider"]
            )
            onnx.save_model(slim(onnx.load(str(optimized))), str(target))
        write_json(job.folder / "facts.json", {**model.facts, "graph": self.level, "portable": self.level != "all"})
        return Model.at(job.folder, ONNX)

    def _options(self, target: Path, threads: int) -> onnxruntime.SessionOptions:
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = LEVELS[self.level]
        options.optimized_model_filepath = str(target)
        options.intra_op_num_threads = threads
        options.log_severity_level = ERRORS
        return options
