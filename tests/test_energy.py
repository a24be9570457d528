"""What calls cost: estimated or measured and said so, by country and price, and nothing asked of any network."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest

from trimtab.data import Rows
from trimtab.discover import make
from trimtab.energy import Usage
from trimtab.errors import SettingsError
from trimtab.timing import race
from trimtab.window import Arrays
from trimtab_codecarbon.meter import Codecarbon

USAGE = Usage(rows=2000, seconds=5.0, cpu_seconds=4.0)
NOWHERE = Path("nowhere")


def test_an_estimate_is_processor_time_times_rated_power() -> None:
    energy = Codecarbon(watts=6.0, powercap=NOWHERE).energy(USAGE)
    assert energy.joules_per_1000_rows == pytest.approx(12.0)
    assert energy.estimated
    assert energy.method == "processor time x 6 W a core (setting watts)"
    assert energy.carbon_g_per_1000_rows is None
    assert energy.cost_per_1000_rows is None


def test_codecarbon_rates_this_processor() -> None:
    energy = Codecarbon(powercap=NOWHERE).energy(USAGE)
    assert 0.5 < energy.joules_per_1000_rows / 2.0 < 400
    assert "codecarbon's" in energy.method


def test_carbon_follows_from_the_country_and_cost_from_the_price() -> None:
    usage = Usage(rows=1000, seconds=1.0, cpu_seconds=3.6e6)
    german, french = (Codecarbon(country=c, price_per_kwh=0.25, watts=1.0).energy(usage) for c in ("DEU", "FRA"))
    assert german.carbon_g_per_1000_rows is not None
    assert french.carbon_g_per_1000_rows is not None
    assert 900 > german.carbon_g_per_1000_rows > 2 * french.carbon_g_per_1000_rows > 20
    assert german.cost_per_1000_rows == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"country": "DE"}, "got 'DE'. Did you mean 'DEU'?"),
        ({"country": "deu"}, "Did you mean 'DEU'?"),
        ({"watts": 0.0}, "watts must be above 0, got 0.0"),
        ({"price_per_kwh": -1.0}, "price_per_kwh must be 0 or more, got -1.0"),
    ],
)
def test_wrong_settings_are_refused_with_the_way_out(settings: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=r"benchmark\.meter") as refused:
        make(Codecarbon, "codecarbon", settings, "benchmark.meter")
    assert message in str(refused.value)


def powercap(folder: Path, microjoules: int) -> Path:
    """A processor's counter as Linux shows it."""
    domain = folder / "intel-rapl:0"
    domain.mkdir(exist_ok=True)
    (domain / "name").write_text("package-0\n")
    (domain / "max_energy_range_uj").write_text("1000000000\n")
    (domain / "energy_uj").write_text(f"{microjoules}\n")
    return folder


def test_a_readable_counter_is_a_measurement(tmp_path: Path) -> None:
    meter = Codecarbon(powercap=powercap(tmp_path, 900_000_000))
    before = meter.counter()
    powercap(tmp_path, 905_000_000)
    after = meter.counter()
    assert before is not None
    assert after is not None
    assert after - before == pytest.approx(5.0, rel=1e-4)
    powercap(tmp_path, 1_000_000)
    wrapped = meter.counter()
    assert wrapped is not None
    assert wrapped - after == pytest.approx(96.0, rel=1e-4)
    measured = meter.energy(Usage(rows=500, seconds=1.0, cpu_seconds=1.0, joules=5.0))
    assert measured.joules_per_1000_rows == pytest.approx(10.0)
    assert not measured.estimated
    assert measured.method.startswith("RAPL")


def test_without_a_counter_none_is_read() -> None:
    assert Codecarbon(powercap=NOWHERE).counter() is None


def test_no_connection_is_tried() -> None:
    script = """
import sys
def refuse(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.sendto", "socket.gethostbyname"):
        print("tried", event, arguments, flush=True)
        raise OSError("refused")
sys.addaudithook(refuse)
from trimtab.energy import Usage
from trimtab_codecarbon.meter import Codecarbon
meter = Codecarbon(country="SWE", price_per_kwh=0.1)
meter.counter()
print(meter.energy(Usage(1000, 1.0, 1.0)).carbon_g_per_1000_rows)
"""
    done = subprocess.run(
        [sys.executable, "-c", script],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=True,
    )
    assert "tried" not in done.stdout
    assert float(done.stdout) > 0
    assert done.stderr == ""


class Spins:
    """Works for as many turns of a loop as told."""

    def __init__(self, turns: int) -> None:
        self.turns = turns

    def run(self, inputs: Arrays) -> dict[str, npt.NDArray[np.float32]]:
        return {"probabilities": self.predict(inputs)}

    def predict(self, inputs: Arrays) -> npt.NDArray[np.float32]:
        for _ in range(self.turns):
            pass
        return np.zeros((1, 2), np.float32)


def test_a_duel_measures_energy_during_its_calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    rows = Rows({"x": np.zeros((4, 1), np.float32)}, np.zeros(4, np.int64), np.arange(4, dtype=np.uint64))
    rivals = {"one": Spins(5_000), "four": Spins(20_000)}
    timed = race(Spins(5_000), rivals, rows, batch=4, seconds=0.3, meter=Codecarbon(watts=5.0, powercap=NOWHERE))
    one, four = timed["one"], timed["four"]
    assert one.energy is not None
    assert four.energy is not None
    assert 2.5 < four.energy.joules_per_1000_rows / one.energy.joules_per_1000_rows < 6
    assert one.energy.joules_per_1000_rows == pytest.approx(5.0 * one.p50_ms / 4, rel=0.5)
    assert race(Spins(50), {"it": Spins(50)}, rows, seconds=0.01)["it"].energy is None
