"""A fitted estimator as a file that is no pickle, and is read again only as what it may hold."""

from __future__ import annotations

import io
import itertools
import json
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import sklearn
import skops.io
from sklearn.base import BaseEstimator
from sklearn.ensemble._gb import BaseGradientBoosting
from sklearn.ensemble._hist_gradient_boosting.predictor import TreePredictor
from sklearn.tree import DecisionTreeRegressor
from sklearn.tree._tree import Tree

from trimtab.errors import ArtifactError, PluginError

__all__ = ["read", "write"]

SCHEMA = "schema.json"
EPOCH = (1980, 1, 1, 0, 0, 0)
ARRAY = np.lib.format.MAGIC_PREFIX
MOST_BYTES = 4 << 30
"""Of what a file unpacks to: an altered one of a few kilobytes could fill the memory."""
TRUSTED = (
    "numpy.dtype",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.tree._tree.Tree",
)
"""Beyond scikit-learn's estimators and numpy's arrays, which skops trusts itself. Trees are checked when they are read:
scikit-learn follows their indices without looking."""


def write(estimator: BaseEstimator, path: Path) -> None:
    """Write a fitted estimator with skops; the same estimator gives the same bytes.

    skops names what it writes by addresses in memory and puts the hour into the file; here they are numbered,
    and the hour is always the same.

    Raises
    ------
    PluginError
        When it holds an object of a type that is not read again: one of the user's own, or a function.
    """
    try:
        written = skops.io.dumps(estimator)
        foreign = sorted(set(skops.io.get_untrusted_types(data=written)) - set(TRUSTED))
    except Exception as error:  # skops raises what it trips over
        raise PluginError(f"the estimator cannot be stored: {' '.join(str(error).split())[:300]}") from error
    if foreign:
        raise PluginError(
            f"the estimator holds {', '.join(foreign)}, and only scikit-learn's own parts are read from a file again; "
            "build it from those"
        )
    with zipfile.ZipFile(io.BytesIO(written)) as file:
        described = json.loads(file.read(SCHEMA))
        arrays = {name: file.read(name) for name in file.namelist() if name != SCHEMA}
    names = _numbered(described)
    with zipfile.ZipFile(path, "w") as file:
        for old, new in names.items():
            _add(file, new, _without_padding(arrays[old]))
        _add(file, SCHEMA, json.dumps(described).encode())


def _add(file: zipfile.ZipFile, name: str, content: bytes) -> None:
    file.writestr(zipfile.ZipInfo(name, EPOCH), content, zipfile.ZIP_DEFLATED)


def _without_padding(content: bytes) -> bytes:
    """Set the bytes between the fields of a tree's nodes to 0: they hold what was in memory before."""
    array = np.load(io.BytesIO(content), allow_pickle=False)
    if array.dtype.names is None:
        return content
    clean, buffer = np.zeros(array.shape, array.dtype), io.BytesIO()  # zeros_like leaves the gaps as they are
    for name in array.dtype.names:
        clean[name] = array[name]
    np.save(buffer, clean, allow_pickle=False)
    return buffer.getvalue()


def _numbered(described: Any) -> dict[str, str]:
    """Give objects and files of a description numbers in the order in which they come, and return the files' names."""
    ids: dict[int, int] = {}
    files: dict[str, str] = {}
    for node in _nodes(described):
        if "__id__" in node:
            node["__id__"] = ids.setdefault(node["__id__"], len(ids) + 1)
        if isinstance(node.get("file"), str) and node.get("__loader__"):
            node["file"] = files.setdefault(node["file"], f"{len(files) + 1}.npy")
    return files


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
    inner = value.values() if isinstance(value, Mapping) else value if isinstance(value, list) else ()
    yield from itertools.chain.from_iterable(_nodes(v) for v in inner)


def read(path: Path, version: str) -> BaseEstimator:
    """Read an estimator that :func:`write` laid down.

    Parameters
    ----------
    version
        Of the scikit-learn that fitted it.

    Raises
    ------
    ArtifactError
        When the file is missing or altered, holds anything but what may be in it, or was written by another
        scikit-learn than this one.
    """
    if version != sklearn.__version__:
        raise ArtifactError(
            f"{path} was fitted by scikit-learn {version}, and {sklearn.__version__} is installed, which may read it "
            "otherwise: install the former, or let a technique that fits anew (sklearn.fit) begin the recipe"
        )
    try:
        _check_size(path)
        estimator: BaseEstimator = skops.io.load(path, trusted=list(TRUSTED))
        for part, width in _parts(estimator):
            if isinstance(part, BaseGradientBoosting):
                _check_stages(part)
            else:
                _check(part, width)
    except Exception as error:  # of a damaged archive, an untrusted type, or a state that does not fit
        raise ArtifactError(
            f"{path} cannot be read as an estimator: {' '.join(str(error).split())[:300]}; restore it"
        ) from error
    return estimator


def _check_size(path: Path) -> None:
    with zipfile.ZipFile(path) as file:
        size = file.getinfo(SCHEMA).file_size
        described = json.loads(file.read(SCHEMA)) if size <= MOST_BYTES else {}
        named = [node["file"] for node in _nodes(described) if isinstance(node.get("file"), str)]
        size += sum(file.getinfo(name).file_size for name in named)  # a part is read as often as it is named
        if size > MOST_BYTES:
            raise ValueError(f"it unpacks to {size >> 20} MiB, at most {MOST_BYTES >> 20} MiB are read")
        for name in dict.fromkeys(named):
            with file.open(name) as part:
                if part.read(len(ARRAY)) != ARRAY:  # what is packed in itself, as sparse matrices are, is larger yet
                    raise ValueError(f"{name} is no array as one is written")


def _parts(
    value: Any, width: Any = None, seen: set[tuple[int, Any]] | None = None
) -> Iterator[tuple[Tree | TreePredictor | BaseGradientBoosting, Any]]:
    """Yield every tree, with the number of features that the estimator around it reads, and every boosting of trees."""
    seen = set() if seen is None else seen
    if (id(value), width) in seen:  # a file may put one tree into several estimators
        return
    seen.add((id(value), width))
    inner: Iterable[Any] = ()
    if isinstance(value, np.ndarray):
        inner = value.ravel() if value.dtype == object else ()
    elif isinstance(value, Mapping):
        inner = value.values()
    elif isinstance(value, list | tuple):
        inner = value
    elif hasattr(value, "__dict__"):
        width, inner = vars(value).get("n_features_in_", width), vars(value).values()
    yield from itertools.chain.from_iterable(_parts(v, width, seen) for v in inner)
    if isinstance(value, Tree | TreePredictor | BaseGradientBoosting):  # a boosting is asked, after what is in it
        yield value, width


def _check(tree: Tree | TreePredictor, width: int) -> None:
    """Raise a ValueError unless a tree's children come after their node and are there, and its features too."""
    if isinstance(tree, Tree):
        inner, features = tree.children_left != -1, tree.feature
        children, width = (tree.children_left, tree.children_right), min(width, tree.n_features)
        if tree.value.size < len(inner):
            raise ValueError("a tree's node has no value")
    else:
        nodes = tree.nodes
        inner, features, children = nodes["is_leaf"] == 0, nodes["feature_idx"], (nodes["left"], nodes["right"])
        if (nodes["is_categorical"] != 0).any():
            raise ValueError("a tree splits by categories, which no stored tree does")
    if not len(inner):
        raise ValueError("a tree has no node")
    places = np.flatnonzero(inner)
    for side in children:
        if not ((side[inner].astype(np.int64) > places) & (side[inner] < len(inner))).all():
            raise ValueError("a tree's node has a child that is not there")
    used: npt.NDArray[Any] = features[inner]
    if (used < 0).any() or (used >= width).any():
        raise ValueError("a tree asks for a feature that is not there")


def _check_stages(boosting: BaseGradientBoosting) -> None:
    """Raise a ValueError unless the trees of a boosting read its rows and answer as many values as it adds up."""
    blank = np.zeros((1, boosting.n_features_in_), np.float32)
    if boosting.estimators_.shape[1:] != boosting._raw_predict_init(blank).shape[1:]:
        raise ValueError("a boosting has more or fewer trees in a stage than it has values")
    for tree in boosting.estimators_.ravel():
        if not isinstance(tree, DecisionTreeRegressor) or tree.n_features_in_ != boosting.n_features_in_:
            raise ValueError("a boosting's tree asks for a feature that is not there")
