"""What a runtime promises."""

# ruff: noqa: D401 (the docstring of a check says what is lost, which is no command)

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from trimtab.artifact import Model
from trimtab.errors import ArtifactError
from trimtab.runtime import Runtime, Session
from trimtab.testing.material import Material
from trimtab.testing.promise import has, require


def check_runtime_says_what_it_is(runtime: Runtime, material: Material) -> None:
    """No recipe ends in a format that it takes."""
    has(runtime, {"name": str, "takes": tuple})


def predicts(session: Session, material: Material) -> npt.NDArray[np.float32]:
    """Require probabilities of every row, and return them, float32 ``[rows, classes]``."""
    rows, classes = material.rows, len(material.schema.classes)
    probabilities = session.predict(rows.inputs)
    require(
        probabilities.shape == (len(rows), classes) and probabilities.dtype == np.float32,
        f"probabilities are {probabilities.dtype} {list(probabilities.shape)}, not float32 [{len(rows)}, {classes}]",
    )
    require(bool(np.isfinite(probabilities).all()), "probabilities are not all finite")
    off = float(np.abs(probabilities.sum(axis=1) - 1).max())
    require(off < 1e-3, f"probabilities of a row sum to 1 give or take {off:.3g}; the contract allows 0.001")
    return probabilities


def check_runtime_predicts(runtime: Runtime, material: Material) -> None:
    """Quality and speed of every candidate are measured on something else than what production gets."""
    session = _loaded(runtime, material)
    whole = predicts(session, material)
    parts = session.run(material.rows.inputs)
    require("probabilities" in parts, f"run gives {sorted(parts)}; the contract asks for 'probabilities'")
    require(np.allclose(parts["probabilities"], whole, atol=1e-5), "run and predict give different probabilities")


def _loaded(runtime: Runtime, material: Material, batch: int = 1) -> Session:
    return runtime.load(material.served(runtime), batch=batch)


def check_runtime_does_not_mix_rows(runtime: Runtime, material: Material) -> None:
    """A prediction depends on whose request came at the same moment, or on the batch that was asked for."""
    whole = _loaded(runtime, material).predict(material.rows.inputs)
    session = _loaded(runtime, material, batch=2)
    for rows in (1, 2, 3):
        few = session.predict({k: v[:rows] for k, v in material.rows.inputs.items()})
        require(
            few.shape == whole[:rows].shape and np.allclose(few, whole[:rows], atol=1e-4),
            f"rows in a call of {rows}, loaded for calls of 2, are predicted otherwise than in one of {len(whole)}",
        )


def check_runtime_gives_answers_that_stay(runtime: Runtime, material: Material) -> None:
    """An answer changes in its reader's hands when the next request comes."""
    session = _loaded(runtime, material)
    first, second = ({k: v[row : row + 1] for k, v in material.rows.inputs.items()} for row in (0, 1))
    for ask in (session.predict, lambda inputs: session.run(inputs)["probabilities"]):
        answer = ask(first)
        kept = answer.copy()
        ask(second)
        require(np.array_equal(answer, kept), f"{runtime.name} overwrites an answer with the next one")


def check_runtime_names_a_damaged_file(runtime: Runtime, material: Material) -> None:
    """A damaged champion is not recognised as one, and the loop does not fall back to the version before."""
    folder, model = material.job("damaged").folder, material.served(runtime)
    for path in model.folder.iterdir():
        (folder / path.name).write_bytes(path.read_bytes()[: path.stat().st_size // 3])
    try:
        runtime.load(Model.at(folder, model.format))
    except ArtifactError:
        return
    except Exception as error:  # whatever else it raises is the finding
        raise AssertionError(f"{runtime.name} of a truncated file raised {error!r}; raise ArtifactError") from error
    require(False, f"{runtime.name} loads a file that was cut to a third")
