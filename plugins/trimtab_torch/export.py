"""Export to ONNX: raw row in, prediction and embedding out, compared with torch before it is believed."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
import torch
from torch import Tensor, nn

from trimtab.artifact import FLOAT, ONNX, Model, write_json
from trimtab.data import Data, Role
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab.window import Arrays, Schema
from trimtab_torch.graph import clean, feed_text, name_inputs, placeholder
from trimtab_torch.layers import executed, multiply_adds
from trimtab_torch.preprocess import Preprocess, blank_rows, to_tensors
from trimtab_torch.spec import FloatModel, parameters
from trimtab_torch.training import workbench

__all__ = ["EMBEDDING", "FILE", "Export", "Serving", "cause", "quiet", "session", "trace", "write"]

FILE = "model.onnx"
PROBABILITIES, PREDICTIONS, EMBEDDING = "probabilities", "predictions", "embedding"
TOLERANCE = 1e-5
BATCHES = (1, 2, 32)
"""Rows at which an exported file is compared with torch."""
ONE_FILE_BYTES = int(1.5 * 2**30)
"""Beyond this the weights go to a file beside the graph, for protobuf ends at 2 GiB."""


class Serving(nn.Module):
    """A network as it serves: preprocessing before it, softmax or label units and its last hidden layer after it.

    Parameters
    ----------
    preprocess, network
        Of the model.
    last
        The linear layer whose input is the embedding, or None.
    """

    def __init__(self, preprocess: Preprocess, network: nn.Module, last: nn.Module | None) -> None:
        super().__init__()
        self.preprocess = preprocess
        self.network = network
        self.seen: list[Tensor] = []
        if last is not None:
            last.register_forward_pre_hook(self._see)
        self.embeds = last is not None

    def _see(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        self.seen[:] = [inputs[0]]

    def forward(self, *raw: Tensor) -> tuple[Tensor, ...]:
        """Map raw inputs to what is served and, where there is one, embedding ``[rows, width]``.

        Served are probabilities ``[rows, classes]``, or a regression's predictions ``[rows, 1]``.
        """
        served = self.preprocess.serve(self.network(*self.preprocess(*raw)))
        return (served, self.seen.pop()) if self.embeds else (served,)


@dataclass(frozen=True)
class Export:
    """Write ``model.onnx`` with the preprocessing inside.

    Its inputs are those of :attr:`trimtab.window.Schema.inputs`, with any number of rows; its outputs
    ``probabilities``, float32 ``[rows, classes]`` (of a regression ``predictions``, float32
    ``[rows, 1]``, in the label's units), and ``embedding``, float32 ``[rows, width]``: the input of the
    network's last linear layer (left out where there is none, or where it is no matrix).
    ``facts.json`` gives the ``opset``, the ``parameters``, and the ``multiply_adds`` of one row in
    convolutions, linear layers and attention, counted by ``torch.utils.flop_counter``.

    Parameters
    ----------
    opset
        Version of the ONNX operators; what comes out is checked.

    Raises
    ------
    PluginError
        When the network does not export, comes out with another opset, or gives other numbers than
        torch does, beyond 1e-5, on 1, 2 or 32 rows.
    """

    opset: int = 20

    about: ClassVar[About] = About(
        name="export",
        takes=FLOAT,
        gives=ONNX,
        libraries=("torch", "onnx", "onnxscript"),
    )

    def __post_init__(self) -> None:
        if not 18 <= self.opset <= 23:
            raise ValueError(f"export.opset must be from 18 to 23, got {self.opset}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the exported model into ``job.folder``."""
        loaded = FloatModel.load(model, job.factory)
        schema = loaded.spec.schema
        with workbench(job):
            serving = Serving(loaded.preprocess, loaded.network, _embedder(loaded)).eval()
            proto = trace(serving, schema, self.opset)
            self._check_opset(proto)
            write(proto, job.folder / FILE)
            _compare(serving, schema, data, job.folder / FILE, job.threads)
        facts = {
            "opset": self.opset,
            "parameters": parameters(loaded.network),
            "multiply_adds": multiply_adds(loaded.network, loaded.examples(1))[""],
        }
        write_json(job.folder / "facts.json", facts)
        return Model.at(job.folder, ONNX)

    def _check_opset(self, proto: onnx.ModelProto) -> None:
        found = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
        if found != self.opset:
            raise PluginError(
                f"model does not export: export.opset {self.opset} was asked for, the exporter gave {found}; "
                f"set export.opset: {found}"
            )


def trace(serving: Serving, schema: Schema, opset: int) -> onnx.ModelProto:
    """Export what serves, with the schema's names and nothing superfluous.

    Raises
    ------
    PluginError
        When the network does not export, or a feature has the name of an output.
    """
    taken = {PROBABILITIES, PREDICTIONS, EMBEDDING} & {i.name for i in schema.inputs}
    if taken:
        raise PluginError(f"model does not export: feature {taken.pop()!r} has the name of an output; rename it")
    rows = torch.export.Dim("rows")
    names = [placeholder(at) for at in range(len(schema.inputs))]
    served = PREDICTIONS if schema.task == "regression" else PROBABILITIES
    try:
        with quiet():
            program = torch.onnx.export(
                serving,
                to_tensors(schema, blank_rows(schema, 2)),
                dynamo=True,
                verbose=False,
                opset_version=opset,
                input_names=names,
                output_names=[served, EMBEDDING] if serving.embeds else [served],
                # One entry for the one variadic parameter of forward.
                dynamic_shapes=(tuple({0: rows} for _ in names),),
            )
            if program is None:
                raise PluginError("model does not export: torch.onnx.export gave nothing")
            proto = program.model_proto
    except PluginError:
        raise
    except Exception as error:  # the exporter raises whatever the network's code trips over
        raise PluginError(
            f"model does not export: {cause(error)}; avoid control flow on values and shapes fixed to one "
            "batch size in the network's forward"
        ) from error
    return clean(feed_text(name_inputs(proto, schema), schema))


def _embedder(model: FloatModel) -> nn.Module | None:
    """Return the last linear layer that runs, if its input is a matrix."""
    linear = [m for m in executed(model.network, model.examples(2)).values() if isinstance(m, nn.Linear)]
    if not linear:
        return None
    ranks: list[int] = []
    hook = linear[-1].register_forward_pre_hook(lambda _m, inputs: ranks.append(inputs[0].dim()))
    with torch.inference_mode():
        model.network(*model.examples(2))
    hook.remove()
    return linear[-1] if ranks == [2] else None


def write(proto: onnx.ModelProto, path: Path) -> None:
    """Write the file, with its weights beside it where they are too large for one."""
    large = sum(len(t.raw_data) for t in proto.graph.initializer) >= ONE_FILE_BYTES
    onnx.save_model(proto, str(path), save_as_external_data=large, location=f"{FILE}.data" if large else None)


def _compare(serving: Serving, schema: Schema, data: Data, path: Path, threads: int) -> None:
    """Compare the file's numbers with torch's at several batch sizes, on real rows where there are some."""
    loaded = session(path, threads)
    for rows in BATCHES:
        inputs = _sample(schema, data, rows)
        with torch.inference_mode():
            expected = serving(*to_tensors(schema, inputs))
        try:
            found = loaded.run(None, dict(inputs))
        except Exception as error:  # as above
            raise PluginError(
                f"model does not export: onnxruntime does not run it on {rows} rows: {cause(error)}"
            ) from error
        for output, numbers, wanted in zip(loaded.get_outputs(), found, expected, strict=True):
            gap = _gap(numbers, wanted.numpy())
            if not gap <= TOLERANCE:
                raise PluginError(
                    f"model does not export: on {rows} rows the {output.name} differ from torch's by {gap:.2g}, "
                    f"at most {TOLERANCE} allowed; try another export.opset"
                )


def session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    """Load an exported file.

    Raises
    ------
    PluginError
        When onnxruntime does not.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = threads, 1, 3
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise PluginError(f"model does not export: onnxruntime does not load it: {cause(error)}") from error


def _gap(found: npt.NDArray[Any], expected: npt.NDArray[Any]) -> float:
    """Return the largest difference, as a share of the largest number where that is above 1."""
    if found.shape != expected.shape:
        return float("inf")
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    return float(np.abs(found - expected).max(initial=0.0)) / scale


def _sample(schema: Schema, data: Data, rows: int) -> Arrays:
    known = data.rows(Role.TRAIN)
    if not len(known):
        return blank_rows(schema, rows)
    return known.take(np.arange(rows) % len(known)).inputs


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence the exporter, which prints and logs its progress; an error still raises."""
    loggers = [logging.getLogger(n) for n in ("torch.onnx", "torch.export", "torch._dynamo", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    sink = io.StringIO()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL)
    try:
        with contextlib.redirect_stdout(sink), contextlib.redirect_stderr(sink), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def cause(error: BaseException) -> str:
    """Return the innermost cause in one line: the exporter wraps it in pages of advice."""
    while error.__cause__ is not None:
        error = error.__cause__
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]
