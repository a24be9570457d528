"""Export to ONNX: raw row in, prediction out, compared with the estimator row by row before it is believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime

from trimtab.artifact import ONNX, Model, write_json
from trimtab.data import Data, Role, Rows
from trimtab.errors import PluginError
from trimtab.technique import About, Job
from trimtab_sklearn.convert import PREDICTIONS, PROBABILITIES, converted
from trimtab_sklearn.fitted import FORMAT, Fitted, described, final
from trimtab_sklearn.training import workbench

__all__ = ["Export"]

FILE = "model.onnx"
TOLERANCE = 1e-5
ROWS = 2000
"""Most rows that are compared."""
BATCHES = (1, 2, 32)


@dataclass(frozen=True)
class Export:
    """Write the pipeline as ``model.onnx``, preprocessing and all, by skl2onnx.

    Its inputs are those of :attr:`trimtab.window.Schema.inputs`, with any number of rows; its output is
    ``probabilities``, float32 ``[rows, classes]`` (of a regression ``predictions``, float32 ``[rows, 1]``).
    What it answers is compared with the estimator on the first 2000 training rows, and a file that differs
    by more than 1e-5 on one of them is none: skl2onnx converts some settings to something else in silence.
    Thresholds of trees are rounded down to float32, so that no raw number goes another way; behind a step that
    computes (a scaler) a number may, and then it is refused. ``facts.json`` gives the ``opset``, and the ``trees``,
    ``leaves`` and ``rows`` compared.

    Parameters
    ----------
    opset
        Version of the ONNX operators.

    Raises
    ------
    PluginError
        When skl2onnx does not convert the estimator, or to something that answers otherwise.
    """

    opset: int = 20

    about: ClassVar[About] = About(
        name="sklearn.export",
        takes=FORMAT,
        gives=ONNX,
        libraries=("scikit-learn", "skops", "skl2onnx", "onnx"),
    )

    def __post_init__(self) -> None:
        if not 15 <= self.opset <= 21:
            raise ValueError(f"sklearn.export.opset must be from 15 to 21, got {self.opset}")

    def apply(self, model: Model, data: Data, job: Job) -> Model:
        """Write the exported model into ``job.folder``."""
        fitted = Fitted.load(model, job.factory)
        taken = {PROBABILITIES, PREDICTIONS} & {i.name for i in fitted.spec.schema.inputs}
        if taken:
            raise PluginError(f"model does not export: feature {taken.pop()!r} has the name of an output; rename it")
        try:
            proto = converted(fitted, self.opset)
            onnx.checker.check_model(proto)
        except Exception as error:  # skl2onnx raises whatever it trips over
            raise PluginError(
                f"model does not export: skl2onnx does not convert this {type(final(fitted.estimator)).__name__} and "
                f"what is before it: {' '.join(str(error).split())[-300:]}; build it from steps that it converts"
            ) from error
        onnx.save_model(proto, str(job.folder / FILE))
        with workbench(job):
            rows = _compare(fitted, data, job)
        write_json(job.folder / "facts.json", described(fitted) | {"opset": self.opset, "rows": rows})
        return Model.at(job.folder, ONNX)


def _compare(fitted: Fitted, data: Data, job: Job) -> int:
    """Compare the file's answers with the estimator's on training rows, in calls of several sizes; count the rows."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads, options.log_severity_level = job.threads, 1, 4
    rows = data.rows(Role.TRAIN)
    rows = rows.take(np.arange(min(ROWS, len(rows))))
    try:
        session = onnxruntime.InferenceSession(str(job.folder / FILE), options, providers=["CPUExecutionProvider"])
        if not len(rows):
            return 0
        found = _answers(session, rows)
        small = {count: _answers(session, rows.take(np.arange(count) % len(rows))) for count in BATCHES}
    except Exception as error:  # onnxruntime's exceptions share no base class
        raise PluginError(
            f"model does not export: onnxruntime does not run it: {' '.join(str(error).split())[:300]}"
        ) from error
    expected = fitted.answer(rows.inputs)
    _require_same(found, expected, fitted)
    for count, answers in small.items():
        _require_same(answers, expected[np.arange(count) % len(rows)], fitted)
    return len(rows)


def _answers(session: onnxruntime.InferenceSession, rows: Rows) -> npt.NDArray[Any]:
    names = [given.name for given in session.get_inputs()]
    return np.asarray(session.run(None, {name: rows.inputs[name] for name in names})[0])


def _require_same(found: npt.NDArray[Any], expected: npt.NDArray[Any], fitted: Fitted) -> None:
    if found.shape != expected.shape or found.dtype != np.float32:
        raise PluginError(
            f"model does not export: it gives {found.dtype} {list(found.shape)}, not float32 {list(expected.shape)}"
        )
    scale = max(1.0, float(np.abs(expected).max(initial=0.0)))
    gaps = np.abs(found - expected).max(axis=1) / scale
    other = int((~(gaps <= TOLERANCE)).sum())
    if other:
        raise PluginError(
            f"model does not export: on {other} of {len(found)} training rows the file's answer differs from the "
            f"{type(final(fitted.estimator)).__name__}'s by up to {float(np.nanmax(gaps)):.2g}, at most {TOLERANCE} "
            "allowed. Known causes: a scaler before trees, which need none; missing numbers that reach a forest (put "
            "SimpleImputer before it); a vectorizer with a token_pattern, analyzer or n-grams that ONNX reads otherwise"
        )
