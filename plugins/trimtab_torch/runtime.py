"""PyTorch as a runtime: serves a float model as it was trained, with nothing exported."""

from __future__ import annotations

import contextlib
import shutil
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from trimtab.artifact import FLOAT, Model
from trimtab.errors import ArtifactError, DataError, PluginError, TrimtabError
from trimtab.window import Arrays, Schema
from trimtab_torch.export import EMBEDDING, PREDICTIONS, PROBABILITIES, Serving, _embedder
from trimtab_torch.preprocess import blank_rows, to_tensors
from trimtab_torch.spec import FloatModel

__all__ = ["TorchRuntime", "TorchSession"]

COMPILERS = ("g++", "clang++")

Call = Callable[..., tuple[Tensor, ...]]


class TorchSession:
    """A loaded float model.

    Parameters
    ----------
    serving
        The network as it serves.
    compiled
        What answers calls of ``batch`` rows: the same, compiled or not.
    schema
        Of the rows.
    threads
        Threads that one call may use.
    batch
        Rows of the calls that must be fast.
    """

    def __init__(self, serving: Serving, compiled: Call, schema: Schema, threads: int, batch: int) -> None:
        self._serving, self._compiled, self._schema = serving, compiled, schema
        self._threads, self._batch = threads, batch
        main = PREDICTIONS if schema.task == "regression" else PROBABILITIES
        self._outputs = (main, EMBEDDING) if serving.embeds else (main,)
        self._lock = threading.Lock()

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[Any]]:
        """Return ``probabilities`` or ``predictions`` and, where the model has one, ``embedding`` by name."""
        return dict(zip(self._outputs, (value.numpy() for value in self._call(inputs)), strict=True))

    def predict(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        """Return ``probabilities`` (float32 ``[rows, classes]``) or ``predictions`` (float32 ``[rows, 1]``) alone."""
        answer: npt.NDArray[np.float32] = self._call(inputs)[0].numpy()
        return answer

    def _call(self, inputs: Arrays) -> tuple[Tensor, ...]:
        try:
            raw = to_tensors(self._schema, inputs)
            # The embedding passes through the network's hook, which holds one call's.
            with self._lock, _threads(self._threads), torch.inference_mode():
                return (self._compiled if len(raw[0]) == self._batch else self._serving)(*raw)
        except KeyError as error:
            raise DataError(f"model input {error} is missing; given: {sorted(inputs)}") from error
        except (RuntimeError, ValueError, IndexError) as error:
            shapes = {i.name: f"{inputs[i.name].dtype} {list(inputs[i.name].shape)}" for i in self._schema.inputs}
            raise DataError(f"the model does not take {shapes}: {' '.join(str(error).split())[:300]}") from error


@dataclass(frozen=True)
class TorchRuntime:
    """Loads a float model, rebuilding its network with the project's factory.

    Parameters
    ----------
    compile
        Compile the network for the target's batch with ``torch.compile`` (inductor), which needs a C++
        compiler and up to minutes for each model. Calls of other sizes run uncompiled.
    factory
        The only factory that a model's files may name, as ``module:name``; filled in from the project's
        ``model.factory``. None allows any: only for files that you wrote.

    Examples
    --------
    >>> TorchRuntime().takes
    ('torch',)
    """

    compile: bool = False
    factory: str | None = None

    name: ClassVar[str] = "torch"
    takes: ClassVar[tuple[str, ...]] = (FLOAT,)

    def __post_init__(self) -> None:
        if self.compile and not any(map(shutil.which, COMPILERS)):
            raise ValueError(
                f"torch.compile: true needs a C++ compiler, and neither of {', '.join(COMPILERS)} is on the path; "
                "install one, or set compile: false"
            )

    def load(self, model: Model, threads: int = 1, batch: int = 1) -> TorchSession:
        """Load a model.

        Raises
        ------
        ArtifactError
            When a file is missing or unreadable, names another factory, or does not fit what it gives.
        PluginError
            When the network does not compile.
        """
        loaded = _load(model, self.factory)
        serving = Serving(loaded.preprocess, loaded.network, _embedder(loaded)).eval()
        schema = loaded.spec.schema
        compiled = _compile(serving, schema, threads, batch) if self.compile else serving
        return TorchSession(serving, compiled, schema, threads, batch)


def _load(model: Model, factory: str | None) -> FloatModel:
    try:
        return FloatModel.load(model, factory)
    except TrimtabError:
        raise
    except (KeyError, TypeError, ValueError) as error:  # of a spec that is JSON, but not what was written
        raise ArtifactError(f"the model in {model.folder} cannot be read: {error!r}; restore it") from error


def _compile(serving: Serving, schema: Schema, threads: int, batch: int) -> Call:
    """Compile now rather than in the first call, which may be a customer's."""
    from torch._inductor import config  # imports half of torch, for a setting that few use

    call: Call = torch.compile(serving, dynamic=False)
    # In this process: its pool of compiling processes would outlive the call and disturb what is timed.
    with config.patch(compile_threads=1), _threads(threads), torch.inference_mode():
        try:
            call(*to_tensors(schema, blank_rows(schema, batch)))
        except Exception as error:  # the compiler raises whatever the network's code trips over
            words = f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
            raise PluginError(f"torch.compile fails on this network: {words}; set compile: false") from error
    return call


@contextlib.contextmanager
def _threads(wanted: int) -> Iterator[None]:
    """Let torch use so many threads; the number is the whole process's, and so is put back."""
    before = torch.get_num_threads()
    if before == wanted:
        yield
        return
    torch.set_num_threads(wanted)
    try:
        yield
    finally:
        torch.set_num_threads(before)
