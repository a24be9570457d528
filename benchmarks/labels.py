"""How often the performance monitor finds a tenth of the labels flipped, and how often it alarms where none are."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pandas as pd
from sklearn.ensemble import HistGradientBoostingClassifier
from streams import Rng, Stream, electricity, generated
from telling import Figures, Ground

from trimtab.monitor import Answer, Sample, case_of
from trimtab.window import Schema
from trimtab_evidently.performance import Performance

FLIPS = "label flips 10 %"
SHARE = 0.1
TRAINED = 10_000
WINDOWS = 300
NOISE = (0.05, 0.15)
"""Shares of labels that no champion can know: accuracies of about 0.93 and 0.84."""

Codes = npt.NDArray[np.int64]


class Labelled:
    """A stream with labels, and a champion trained on its first rows.

    Parameters
    ----------
    stream
        That rows come from.
    noise
        Share of the labels that is drawn by lot of the other class; None: the stream's last column is the label.
    rng
        That the first rows are drawn with.
    """

    def __init__(self, stream: Stream, noise: float | None, rng: Rng) -> None:
        self._stream, self._noise = stream, noise
        self._names = stream.numbers
        rows, codes = self._draw(rng, TRAINED)
        features = {name: stream.features[name] for name in self._names}
        self.schema = Schema.freeze(features, rows.assign(label=codes), label="label")
        self._champion = HistGradientBoostingClassifier(random_state=0).fit(rows, codes)

    def _draw(self, rng: Rng, rows: int) -> tuple[pd.DataFrame, Codes]:
        frame = self._stream.draw(rng, rows)
        if self._noise is None:
            codes = (frame[self._stream.categories[0]] == "up").to_numpy()
        else:
            codes = (frame["normal_0"] + np.log1p(frame["integer_2"]) > 1.2).to_numpy()
            codes = codes ^ (rng.random(rows) < self._noise)
        return frame[self._names], np.asarray(codes, dtype=np.int64)

    def sample(self, rng: Rng, rows: int, flipped: float, number: int) -> Sample:
        """Return fresh rows with their labels, some of them flipped, and what the champion says."""
        frame, codes = self._draw(rng, rows)
        codes = np.where(rng.random(rows) < flipped, 1 - codes, codes)
        said = self._champion.predict_proba(frame).astype(np.float32)
        return Sample(self.schema, frame, number, probabilities=said, labels=codes)


def flips(ground: Ground, window: int, reference: int, alpha: float) -> dict[str, Figures]:
    """Count alarms on windows with flipped labels, and beside them on windows without.

    Parameters
    ----------
    window, reference
        Rows of each.
    alpha
        Rate of alarms on quiet windows that the monitor may have.
    """
    rng = np.random.default_rng(ground.seed)
    streams: list[tuple[Stream, float | None]] = [(electricity(), None)]
    streams += [(generated(5), noise) for noise in NOISE]
    found: dict[str, Figures] = {}
    monitor, windows = Performance(), 50 if ground.quick else WINDOWS
    for stream, noise in streams:
        labelled = Labelled(stream, noise, rng)
        alarms = {0.0: 0, SHARE: 0}
        right = 0.0
        for _ in range(windows):
            before = labelled.sample(rng, reference, 0.0, 0)
            for share in alarms:
                now = labelled.sample(rng, window, share, 1)
                alarms[share] += monitor.check(case_of(monitor, before, now, alpha)).answer is Answer.WORSE
            right += accuracy(before) / windows
        name = f"{stream.name.removesuffix(' 5').removesuffix(' 7')}, accuracy {right:.2f}"
        found[name] = {"windows": windows, "found": alarms[SHARE] / windows, "quiet_alarms": alarms[0.0] / windows}
    return found


def accuracy(sample: Sample) -> float:
    """Return the share of rows that the champion gets right."""
    if sample.probabilities is None or sample.labels is None:
        raise ValueError("a sample without labels or answers has no accuracy")
    return float((sample.probabilities.argmax(axis=1) == sample.labels).mean())
