"""What is pruned, what is clustered, and that whatever trains holds to it: one set of rules for every technique."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from trimtab_torch.preserve import Kept, Preserved
from trimtab_torch.weights import distinct, zeros


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 6), st.booleans())
def test_what_is_preserved_holds_whatever_training_adds(seed: int, values: int, sparse: bool) -> None:
    draws = torch.Generator().manual_seed(seed)
    weight = torch.randint(1, values + 1, (12, 10), generator=draws).float() / values
    if sparse:
        weight[torch.rand((12, 10), generator=draws) < 0.5] = 0
    preserved = Preserved(weight)
    trained = weight + torch.randn((12, 10), generator=draws)
    held = preserved(trained)
    assert preserved.clustered
    assert ((held == 0) == (weight == 0)).all()
    assert distinct(held) == distinct(weight)
    for value in torch.unique(weight):
        assert len(torch.unique(held[weight == value])) == 1
        assert value == 0 or torch.isclose(held[weight == value][0], trained[weight == value].mean(), atol=1e-5)
    assert torch.equal(preserved(weight), weight)


def layer_of(zero: int, shared: int, values: int, alone: int = 0) -> Tensor:
    """Return weights of which some are zero, some share that many values, and some are like no other."""
    others = torch.linspace(3.0, 4.0, alone) if alone else torch.empty(0)
    return torch.cat([torch.zeros(zero), torch.linspace(1.0, 2.0, values).repeat(shared)[:shared], others])


@pytest.mark.parametrize(
    ("weight", "sparse", "clustered"),
    [
        (layer_of(10, 0, 0, alone=90), True, False),
        (layer_of(9, 0, 0, alone=91), False, False),
        (layer_of(95, 0, 0, alone=5), True, False),
        (layer_of(0, 48, 16), False, True),
        (layer_of(0, 31, 16), False, False),
        (layer_of(4, 96, 8), False, True),
        (layer_of(0, 768, 256), False, True),
        (layer_of(1, 768, 256), False, False),
        (layer_of(16, 0, 0), True, False),
    ],
)
def test_a_tenth_of_zeros_is_pruned_and_few_values_of_many_weights_are_clustered(
    weight: Tensor, sparse: bool, clustered: bool
) -> None:
    form = Preserved(weight)
    assert (form.sparse, form.clustered) == (sparse, clustered)
    held = form(weight + torch.linspace(0.1, 0.2, len(weight)))
    assert zeros(held) == (zeros(weight) if sparse or clustered else 0)
    assert (distinct(held) <= distinct(weight)) == (sparse or clustered)


def test_weights_that_did_not_move_are_the_same_to_the_last_bit_however_many_share_a_value() -> None:
    weight = torch.full((1000, 1000), 0.1)
    weight[0] = 0.3
    assert torch.equal(Preserved(weight)(weight), weight)


def test_a_layer_that_is_known_to_be_clustered_is_so_however_few_its_weights() -> None:
    layer = nn.Linear(3, 1, bias=False)
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([[0.0, 1.0, 2.0]]))
    assert not Preserved(layer.weight[:, 1:]).clustered
    kept = Kept.of(layer, [""])
    with torch.no_grad():
        layer.weight.add_(1.0)
        kept(1, 1)
    assert layer.weight.tolist() == [[0.0, 2.0, 3.0]]
