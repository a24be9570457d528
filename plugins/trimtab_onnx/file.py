"""A project whose model is an ONNX file alone: nothing fits it, and everything that can be done without is."""

from __future__ import annotations

import hashlib
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np
import numpy.typing as npt
import onnx

from trimtab.artifact import ONNX, Model, sha256_file, write_json
from trimtab.data import Data, Role
from trimtab.errors import ArtifactError, PluginError, SettingsError
from trimtab.technique import Job
from trimtab.window import Arrays, Task
from trimtab_onnx.mapping import Mapped
from trimtab_onnx.runtime import OnnxRuntime

__all__ = ["OnnxClassifier", "OnnxRegressor"]

Answers = npt.NDArray[np.float32]

MOST_BYTES = int(1.5 * 2**30)
BATCHES = (1, 2, 32)
"""Rows at which the mapped file is tried."""
APART = 1e-4
"""By which a row's answer may depend on the rows beside it, and a row's probabilities on a sum of 1."""


@dataclass(frozen=True)
class OnnxFile:
    """Takes a model from an ONNX file, with its inputs and outputs named as the project's.

    The file is read for the first champion, and kept with every version as the parent that compressed models are
    cut from. Nothing is fitted: rows are read to see that it answers them.

    Parameters
    ----------
    path
        Of the file, relative to the working folder.
    inputs
        What each input of the file is called here: a tensor or text feature, ``numeric`` (all numbers in the order of
        ``features``), or one numeric feature; by the file's name of it. One of the same name, or the only one
        left of its type, need not be named.
    output
        The output that answers; it may be left out where the file has one alone, or one called ``probabilities``
        (``predictions`` in a regression).
    embedding
        An output ``[rows, width]`` for the monitor of drift to look at; none unless named.
    """

    path: str
    inputs: Mapping[str, str] = field(default_factory=dict)
    output: str | None = None
    embedding: str | None = None

    gives: ClassVar[str] = ONNX
    techniques: ClassVar[tuple[str, ...]] = ("quantize.static", "quantize.dynamic")
    untrained: ClassVar[str] = (
        "nothing was retrained: the model is an ONNX file without a trainer, so its weights stay as they are, and a "
        "round only quantizes it anew on the new rows and optimizes its graph"
    )
    task: ClassVar[Task]

    @property
    def digest(self) -> str:
        """SHA-256 of the file, with those beside it that hold its weights.

        Raises
        ------
        SettingsError
            When there is no such file.
        """
        if not Path(self.path).is_file():
            raise SettingsError(f"model.path: no file {self.path!r} in {Path.cwd()}; name the ONNX file of the model")
        sha = [sha256_file(file) for file in (Path(self.path), *self._weights())]
        return sha[0] if len(sha) == 1 else hashlib.sha256("".join(sha).encode()).hexdigest()

    def _weights(self) -> list[Path]:
        """Return the files beside the graph that hold weights; of what is no ONNX file none."""
        try:
            graph = onnx.load(self.path, load_external_data=False).graph
        except Exception:  # of protobuf; what reads the file afterwards says what is wrong with it
            return []
        named = (e.value for t in graph.initializer for e in t.external_data if e.key == "location")
        beside = (Path(self.path).parent / name for name in dict.fromkeys(named))
        return [file for file in beside if file.is_file()]

    def draft(self, inputs: Arrays, job: Job) -> Model:
        """Write the file with its inputs and outputs named as the project's into ``job.folder``, and try it."""
        model = self._write(job)
        self._try(model, inputs, job)
        return model

    def fit(self, data: Data, job: Job) -> Model:
        """Do what :meth:`draft` does; the rows fit nothing.

        Raises
        ------
        DataError
            When there is no row to try it on.
        PluginError
            When the file does not load, or does not answer rows as a model of the task does.
        SettingsError
            When an input or output of the file is not of the schema, with the setting that mends it.
        """
        return self.draft(data.first(max(BATCHES), Role.TRAIN, Role.CALIBRATION).inputs, job)

    def _write(self, job: Job) -> Model:
        digest = self.digest
        try:
            proto = onnx.load(self.path)
            if (size := proto.ByteSize()) <= MOST_BYTES:  # the checker refuses what is beyond 2 GB in other words
                onnx.checker.check_model(proto)
        except Exception as error:  # of protobuf, of the checker, of the file system: they share no base class
            raise PluginError(f"model.path: {self.path} is no ONNX model: {_words(error)}") from error
        if size > MOST_BYTES:
            raise PluginError(f"model.path: {self.path} has {size / 1e9:.1f} GB, at most 1.5 GB are taken")
        mapped = self._mapped(proto, job)
        onnx.save_model(mapped.written(), str(job.folder / "model.onnx"))
        opset = next(o.version for o in proto.opset_import if o.domain in ("", "ai.onnx"))
        parameters = sum(int(np.prod(t.dims)) for t in proto.graph.initializer if len(t.dims))
        facts = {"file_sha256": digest, "opset": opset, "parameters": parameters}
        write_json(job.folder / "facts.json", facts)
        return Model.at(job.folder, ONNX)

    def _mapped(self, proto: onnx.ModelProto, job: Job) -> Mapped:
        return Mapped(proto, job.schema, self.inputs, self.output, self.embedding)

    def _try(self, model: Model, inputs: Arrays, job: Job) -> None:
        try:
            session = OnnxRuntime().load(model, job.threads)
        except ArtifactError as error:
            raise PluginError(f"model.path: {self.path} does not load in onnxruntime: {error}") from error
        rows = len(next(iter(inputs.values())))
        answers = {}
        for count in sorted({min(count, rows) for count in BATCHES}):
            try:
                answers[count] = session.predict({name: values[:count] for name, values in inputs.items()})
            except Exception as error:  # of what the graph trips over
                raise PluginError(
                    f"model.path: {self.path} does not answer {count} rows at once: {_words(error)}; "
                    "export it with a batch of any size, and with its output's shape"
                ) from error
            if len(answers[count]) != count or not np.isfinite(answers[count]).all():
                raise PluginError(
                    f"model.path: {self.path} answers {count} rows with an array of {list(answers[count].shape)}, "
                    "or with what is no number; it must give a row of finite numbers for each row"
                )
            if not np.allclose(answers[count][:1], answers[min(answers)], rtol=APART, atol=APART):
                raise PluginError(
                    f"model.path: {self.path} answers a row otherwise when {count} rows come at once; export it for "
                    "inference, so that no row's answer depends on the others"
                )
        self._check(answers[max(answers)])

    def _check(self, answers: Answers) -> None:
        """Check what the answers of its task must be."""


def _words(error: Exception) -> str:
    return " ".join(str(error).split())[:300]


@dataclass(frozen=True)
class OnnxClassifier(OnnxFile):
    """An ONNX file that gives a probability for each class, ``[rows, classes]``; of two classes the second's will do.

    It is read for the first champion, and kept with every version as the parent that compressed models are cut from.
    Nothing is fitted: rows are read to see that it answers them. Its settings are those of
    :class:`trimtab_onnx.file.OnnxFile`, and:

    Parameters
    ----------
    softmax
        Whether the output is logits, and a softmax is put behind it (a sigmoid, where it is one column).
    classes
        Labels in the order of the output's columns; without it they are in sorted order, as the schema has them. One
        column alone, ``[rows, 1]`` or ``[rows]``, is the second of two.

    Examples
    --------
    >>> OnnxClassifier("net.onnx").untrained
    'nothing was retrained: the model is an ONNX file without a trainer, ...'
    """

    softmax: bool = False
    classes: tuple[bool | int | str, ...] = ()

    name: ClassVar[str] = "onnx.classifier"
    task: ClassVar[Task] = "classification"

    def _mapped(self, proto: onnx.ModelProto, job: Job) -> Mapped:
        order = self._order(job)
        return Mapped(proto, job.schema, self.inputs, self.output, self.embedding, softmax=self.softmax, order=order)

    def _order(self, job: Job) -> tuple[int, ...]:
        """Return the column of each of the schema's classes."""
        known = job.schema.classes
        if not self.classes:
            return ()
        if sorted(map(str, self.classes)) != sorted(map(str, known)):
            raise SettingsError(
                f"model.classes: the rows have the labels {list(known)}, got {list(self.classes)}; name the same ones, "
                "in the order of the file's columns"
            )
        columns = [str(label) for label in self.classes]
        return tuple(columns.index(str(label)) for label in known)

    def _try(self, model: Model, inputs: Arrays, job: Job) -> None:
        super()._try(model, inputs, job)
        raw = _before_softmax(model, inputs, job) if self.softmax else None
        if raw is not None and _are_probabilities(raw):
            raise SettingsError(
                f"model.softmax: the answers of {self.path} are probabilities already, which a softmax would flatten; "
                "leave model.softmax out, or name the output with the logits in model.output"
            )

    def _check(self, answers: Answers) -> None:
        if not _are_probabilities(answers):
            raise SettingsError(
                f"model.output: the answers of {self.path} are no probabilities, a row sums to {answers[0].sum():.4g} "
                f"and the least is {answers.min():.4g}; set model.softmax: true where they are logits, or name another "
                "model.output"
            )


def _are_probabilities(answers: Answers) -> bool:
    return bool((answers >= -APART).all() and np.allclose(answers.sum(axis=1), 1, atol=APART))


def _before_softmax(model: Model, inputs: Arrays, job: Job) -> Answers | None:
    """Return what a model would answer without the softmax that was put behind it.

    None where that is a sigmoid: logits of a single column may all lie between 0 and 1, and then look no different.
    """
    proto = onnx.load(str(model.folder / "model.onnx"))
    last = next(node for node in proto.graph.node if node.output[0] == "probabilities")
    if last.op_type != "Softmax":
        return None
    last.op_type = "Identity"
    last.ClearField("attribute")
    with tempfile.TemporaryDirectory() as folder:
        onnx.save_model(proto, f"{folder}/model.onnx")
        write_json(Path(folder) / "facts.json", {})
        return OnnxRuntime().load(Model.at(Path(folder), ONNX), job.threads).predict(inputs)


@dataclass(frozen=True)
class OnnxRegressor(OnnxFile):
    """An ONNX file that gives one number a row, ``[rows, 1]`` or ``[rows]``, in the label's units.

    It is read for the first champion, and kept with every version as the parent that compressed models are cut from.
    Nothing is fitted: rows are read to see that it answers them. Settings are those of
    :class:`trimtab_onnx.file.OnnxFile`.

    Examples
    --------
    >>> OnnxRegressor("net.onnx").gives
    'onnx'
    """

    name: ClassVar[str] = "onnx.regressor"
    task: ClassVar[Task] = "regression"
