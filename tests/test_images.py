"""What happens to images is found on both streams, by the champion's embedding too; quiet windows are left alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.append(str(Path(__file__).parents[1] / "benchmarks"))

import cifar
import images

from trimtab.monitor import Answer, Finding
from trimtab_evidently.drift import Drift

SIZE = images.Size(seeds=1, rows=780, windows=3, epochs=6, images=3000)
CIFAR = cifar.SHARED / "data" / "cifar10_train.parquet"
NEW = list(images.NEW)[-1]


@pytest.fixture(scope="module", params=["digits", "cifar"])
def stream(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Any:
    if request.param == "cifar" and not CIFAR.is_file():
        pytest.skip("set TRIMTAB_SHARED to a folder with data/cifar10_train.parquet")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield request.param, images.watch(request.param, tmp_path_factory.mktemp("images"), 0, SIZE)
    torch.set_num_threads(threads)


def look(stream: tuple[str, images.Watched], kind: str, number: int = 0, monitor: Drift | None = None) -> Finding:
    name, watched = stream
    rows = images.changed(name, kind, watched.images.windows[number], number)
    return watched.look(monitor or Drift(), rows, number + 1)


@pytest.mark.parametrize(
    ("kind", "statistic"), [("blur", "image.gradient"), ("contrast", "image.sd"), ("noise", "image.gradient")]
)
def test_a_worse_camera_is_found_and_named(stream: Any, kind: str, statistic: str) -> None:
    found = look(stream, kind)
    assert found.answer is Answer.MOVED
    assert statistic in found.alarms


def test_a_new_class_is_found_by_the_champions_embedding(stream: Any) -> None:
    found = look(stream, NEW)
    assert found.answer is Answer.MOVED
    assert {"embedding", "embedding.kernel"} & {*found.alarms}


def test_quiet_windows_are_left_alone(stream: Any) -> None:
    assert [look(stream, "quiet", number).answer for number in range(3)] == [Answer.FINE] * 3


def test_the_embedding_is_the_champions_own(stream: Any) -> None:
    _, watched = stream
    assert watched.reference.embedding is not None
    assert watched.reference.embedding.shape == (len(watched.images.reference), 64)
    blind = look(stream, NEW, monitor=Drift(joint=False))
    assert not {"embedding", "embedding.kernel"} & {*blind.scores}
