"""A float model on disk: safetensors beside a spec that rebuilds its network, pruned or not, without a pickle."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, cast

import numpy.typing as npt
import safetensors
import safetensors.torch
import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase
from torch.nn.modules.conv import _ConvNd

from trimtab.artifact import FLOAT, Model, read_json, write_json
from trimtab.data import Rows
from trimtab.discover import load_object
from trimtab.errors import ArtifactError, PluginError, nearest
from trimtab.technique import Job
from trimtab.window import NUMERIC_INPUT, Arrays, Schema
from trimtab_torch.attention import Attention
from trimtab_torch.preprocess import Preprocess, blank_rows, to_tensors
from trimtab_torch.settings import Settings
from trimtab_torch.structure import Edit, read_edits, write_edits

__all__ = ["BLOCKNET", "PACKAGED", "FloatModel", "Spec", "outputs_of", "parameters"]

WEIGHTS = "model.safetensors"
SPEC = "spec.json"
FACTS = "facts.json"
VERSION = 1

SIZED: tuple[tuple[type[nn.Module], tuple[str, ...]], ...] = (
    (_ConvNd, ("in_channels", "out_channels", "groups")),
    (nn.Linear, ("in_features", "out_features")),
    (_NormBase, ("num_features",)),
    (nn.GroupNorm, ("num_groups", "num_channels")),
    (nn.LayerNorm, ("normalized_shape",)),
    (nn.PReLU, ("num_parameters",)),
    (Attention, ("heads", "window")),
)
"""Layers that techniques reshape, with the attributes that say how: numbers, or lists of them, and nothing else."""

BLOCKNET = "trimtab_torch.blocks:BlockNet"
PACKAGED = frozenset({BLOCKNET})
"""Networks of ours that a technique may put in the place of the project's: called whatever factory is named."""


@dataclass(frozen=True)
class Spec:
    """What rebuilds a network.

    Parameters
    ----------
    factory
        ``module:name`` of what builds it: the user's code, or one of :mod:`trimtab_torch.networks`.
    arguments
        What the project gives the factory.
    schema
        Of the rows.
    settings
        The trainer's; training steps take from here what neither they nor the project say.
    structure
        What is done to the factory's network, in order, before widths and weights are filled in.
    """

    factory: str
    arguments: Mapping[str, Any]
    schema: Schema
    settings: Settings
    structure: tuple[Edit, ...] = ()

    def anew(self, job: Job) -> Spec:
        """Return what builds the project's own network as the project has it today, whatever was made of it since."""
        factory = job.factory or self.factory
        own = self.arguments if factory == self.factory else {}
        return replace(self, factory=factory, arguments=job.training.get("arguments", own), structure=())


@dataclass(frozen=True)
class FloatModel:
    """A float model in memory: its spec, its fitted preprocessing, and its network (in eval mode, on the CPU)."""

    spec: Spec
    preprocess: Preprocess
    network: nn.Module

    @classmethod
    def create(cls, spec: Spec, rows: Rows, seed: int) -> FloatModel:
        """Build a fresh network, and fit its preprocessing on ``rows``.

        Raises
        ------
        PluginError
            When the factory raises, gives no module, or gives one that does not map the rows to the outputs.
        """
        preprocess = Preprocess(spec.schema)
        preprocess.fit(rows.inputs, rows.labels)
        return cls.build(spec, preprocess, seed)

    @classmethod
    def build(cls, spec: Spec, preprocess: Preprocess, seed: int) -> FloatModel:
        """Build a fresh network behind a preprocessing that is fitted; raises as :meth:`create`."""
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            network = construct(spec, preprocess)
        model = cls(spec, preprocess.eval(), network.eval())
        model.check()
        return model

    @classmethod
    def load(cls, model: Model, factory: str | None = None) -> FloatModel:
        """Rebuild the network that :meth:`save` laid down, with the widths that pruning left.

        Parameters
        ----------
        factory
            The only factory that may be called beside those of :data:`PACKAGED`, or None for any.

        Raises
        ------
        ArtifactError
            When a file is missing or unreadable, or does not fit what the factory gives today.
        """
        described = read_json(model.folder / SPEC)
        spec, widths = _read_spec(described, model.folder)
        if factory is not None and spec.factory != factory and spec.factory not in PACKAGED:
            raise ArtifactError(
                f"the model in {model.folder} asks for the factory {spec.factory!r}, the project names {factory!r}: "
                "its files were altered, or model.factory was; set model.factory back, or begin a new project"
            )
        preprocess = Preprocess(spec.schema)
        with torch.random.fork_rng():
            network = construct(spec, preprocess)
        tensors = _read_tensors(model.folder / WEIGHTS)
        _narrow(network, widths, _below(tensors, "network."), spec)
        _fill(preprocess, _below(tensors, "preprocess."), "the preprocessing")
        _fill(network, _below(tensors, "network."), spec.factory)
        return cls(spec, preprocess.eval(), network.eval())

    @classmethod
    def taken(cls, model: Model, job: Job) -> FloatModel:
        """Load a model to work on: by the job's factory alone, and with its training settings over the model's own."""
        loaded = cls.load(model, job.factory)
        today = {f.name: job.training.get(f.name) for f in fields(Settings)}
        return replace(loaded, spec=replace(loaded.spec, settings=loaded.spec.settings.but(**today)))

    def save(self, folder: Path, facts: Mapping[str, object]) -> Model:
        """Lay the model down in ``folder``, with ``facts`` and its number of parameters."""
        tensors = {
            f"{part}.{name}": value.detach().cpu().clone().contiguous()
            for part, module in (("preprocess", self.preprocess), ("network", self.network))
            for name, value in module.state_dict().items()
        }
        safetensors.torch.save_file(tensors, folder / WEIGHTS)
        described = {
            "version": VERSION,
            "factory": self.spec.factory,
            "arguments": dict(self.spec.arguments),
            "schema": self.spec.schema.model_dump(mode="json"),
            "settings": asdict(self.spec.settings),
            "structure": write_edits(self.spec.structure),
            "widths": widths_of(self.network),
        }
        write_json(folder / SPEC, described)
        write_json(folder / FACTS, {"parameters": parameters(self.network), **facts})
        return Model.at(folder, FLOAT)

    def prepare(self, inputs: Arrays) -> tuple[Tensor, ...]:
        """Return the network's arguments for encoded rows."""
        with torch.inference_mode():
            prepared = self.preprocess(*to_tensors(self.spec.schema, inputs))
        return tuple(p.clone() for p in prepared)

    def targets(self, labels: npt.NDArray[Any]) -> Tensor:
        """Return what the network is to give: class indices, or a regression's standardised labels ``[rows, 1]``."""
        return self.preprocess.targets(labels)

    def examples(self, rows: int = 2) -> tuple[Tensor, ...]:
        """Return the network's arguments for blank rows."""
        return self.prepare(blank_rows(self.spec.schema, rows))

    def check(self) -> None:
        """Raise a PluginError when the network does not map two rows to outputs ``[2, outputs]``."""
        wanted = (2, outputs_of(self.spec.schema))
        examples = self.examples(2)
        shapes = ", ".join(str(list(e.shape)) for e in examples)
        try:
            with torch.inference_mode():
                outputs = self.network(*examples)
        except Exception as error:  # the user's network may raise anything
            raise PluginError(
                f"model.factory {self.spec.factory!r}: its network raised {_words(error)} on inputs of shape {shapes}; "
                "set model.arguments to match the features"
            ) from error
        if not isinstance(outputs, Tensor) or tuple(outputs.shape) != wanted:
            got = list(outputs.shape) if isinstance(outputs, Tensor) else type(outputs).__name__
            classes = self.spec.schema.classes
            must = f"logits {list(wanted)}, for the classes are {list(classes)}" if classes else f"{list(wanted)}"
            raise PluginError(
                f"model.factory {self.spec.factory!r}: its network gives {got} for two rows, but must give {must}; "
                "set model.arguments, or leave the number of outputs to trimtab (a parameter named 'outputs')"
            )


def outputs_of(schema: Schema) -> int:
    """Return how many numbers a network gives for a row: one for each class, one for a regression."""
    return 1 if schema.task == "regression" else len(schema.classes)


def construct(spec: Spec, preprocess: Preprocess) -> nn.Module:
    """Call the factory with the project's arguments and with what only the schema knows, and edit its network.

    ``inputs`` (width of the preprocessed table), ``outputs`` (the number of classes, or 1 for a
    regression), ``classes`` (the same by another name) and ``shape`` (of the first tensor) are added
    where the factory has such a parameter and the project does not set it.
    """
    make = load_object(spec.factory, "model.factory")
    offered: dict[str, Any] = dict.fromkeys(("outputs", "classes"), outputs_of(spec.schema))
    if preprocess.width:
        offered["inputs"] = preprocess.width
    tensors = [i.shape for i in spec.schema.inputs if i.dtype == "float32" and i.name != NUMERIC_INPUT]
    if tensors:
        offered["shape"] = tensors[0]
    try:
        accepted: Mapping[str, inspect.Parameter] = inspect.signature(make).parameters
    except (TypeError, ValueError):  # builtins have no signature: the project's arguments must do
        accepted = {}
    _check_arguments(spec, accepted)
    given = {**{k: v for k, v in offered.items() if k in accepted}, **spec.arguments}
    try:
        network = make(**given)
    except Exception as error:  # the user's factory may raise anything
        raise PluginError(
            f"model.factory {spec.factory!r} raised {_words(error)} when called with {given}; mend model.arguments"
        ) from error
    if not isinstance(network, nn.Module):
        raise PluginError(
            f"model.factory {spec.factory!r} gave a {type(network).__name__}; it must return a torch.nn.Module"
        )
    for edit in spec.structure:
        edit.apply(network)
    return network


def _check_arguments(spec: Spec, accepted: Mapping[str, inspect.Parameter]) -> None:
    if not accepted or any(p.kind is p.VAR_KEYWORD for p in accepted.values()):
        return
    for name in spec.arguments:
        if name not in accepted:
            raise PluginError(
                f"model.arguments.{name}: {spec.factory!r} has no such parameter; it has {', '.join(accepted)}."
                f"{nearest(name, accepted)}"
            )


def parameters(network: nn.Module) -> int:
    """Return the number of weights of a network."""
    return sum(p.numel() for p in network.parameters())


def widths_of(network: nn.Module) -> dict[str, dict[str, Any]]:
    """Return, for every layer that pruning can narrow, the attributes that say how wide it is."""
    return {
        name: {a: _plain(getattr(module, a)) for a in attributes}
        for name, module in network.named_modules()
        for kind, attributes in SIZED
        if isinstance(module, kind)
    }


def _plain(width: Any) -> Any:
    return list(width) if isinstance(width, tuple) else int(width)


def _read_spec(described: Mapping[str, Any], folder: Path) -> tuple[Spec, Mapping[str, Mapping[str, Any]]]:
    try:
        if described["version"] != VERSION:
            raise ArtifactError(
                f"{folder / SPEC} has version {described['version']}, this trimtab reads {VERSION}; upgrade trimtab"
            )
        schema = Schema.model_validate(described["schema"])
        settings = Settings.from_json(described["settings"])
        structure = read_edits(described.get("structure", []), folder / SPEC)
        return Spec(described["factory"], described["arguments"], schema, settings, structure), described["widths"]
    except (KeyError, TypeError, ValidationError) as error:
        raise ArtifactError(f"{folder / SPEC} is no spec of a float model: {_words(error)}") from error


def _read_tensors(path: Path) -> dict[str, Tensor]:
    try:
        return dict(safetensors.torch.load_file(path))
    except (OSError, safetensors.SafetensorError) as error:
        raise ArtifactError(f"{path} cannot be read as safetensors: {error}") from error


def _below(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}


def _narrow(
    network: nn.Module, widths: Mapping[str, Mapping[str, Any]], tensors: Mapping[str, Tensor], spec: Spec
) -> None:
    """Give every layer its recorded widths, and every weight the shape of the stored one."""
    modules = dict(network.named_modules())
    for name, attributes in widths.items():
        if name not in modules:
            raise ArtifactError(
                f"the stored model has a layer {name!r} that model.factory {spec.factory!r} no longer builds; "
                "restore the factory as it was when the model was trained"
            )
        allowed = {a for kind, known in SIZED if isinstance(modules[name], kind) for a in known}
        for attribute, value in attributes.items():
            if attribute in allowed:
                setattr(modules[name], attribute, tuple(value) if isinstance(value, list) else value)
    for owner, module in modules.items():
        prefix = f"{owner}." if owner else ""
        for name, weight in list(module.named_parameters(recurse=False)):
            stored = tensors.get(prefix + name)
            if stored is not None and stored.shape != weight.shape:
                setattr(module, name, nn.Parameter(torch.empty_like(stored), weight.requires_grad))
        for name, buffer in list(module.named_buffers(recurse=False)):
            stored = tensors.get(prefix + name)
            if stored is not None and stored.shape != buffer.shape:
                setattr(module, name, torch.empty_like(stored))


def _fill(module: nn.Module, tensors: Mapping[str, Tensor], what: str) -> None:
    try:
        module.load_state_dict(cast("dict[str, Tensor]", tensors), strict=True)
    except RuntimeError as error:
        raise ArtifactError(
            f"the stored weights do not fit {what}: {_words(error)}; "
            "restore the factory as it was when the model was trained"
        ) from error


def _words(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:500]
