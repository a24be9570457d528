"""What techniques are checked on that work on certain networks alone; all others share one small table."""

import functools

from trimtab.testing import Material
from trimtab_torch.classifier import Classifier

__all__ = ["material_for"]


@functools.cache
def images() -> Material:
    trainer = Classifier("trimtab_torch.networks:SmallResNet", {"widths": [16, 24]}, epochs=2)
    return Material(trainer=trainer, shape=(1, 8, 8))


@functools.cache
def sequences() -> Material:
    return Material(trainer=Classifier("tests.networks:Encoder", {}, epochs=2), shape=(24, 4))


@functools.cache
def long_sequences() -> Material:
    return Material(trainer=Classifier("tests.networks:Encoder", {}, epochs=2), shape=(100, 4))


NEEDED = {
    "prune.head": sequences,
    "attention.local": long_sequences,
    "search.block": images,
    "exit.early": images,
}


def material_for(name: str) -> Material | None:
    """Return what a plugin is checked on; None: what the checks bring."""
    return NEEDED[name]() if name in NEEDED else None
