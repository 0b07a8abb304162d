"""Energy is what the machine's own meters say, added up over sessions; where nothing says it, that is said."""

from types import SimpleNamespace

import pytest

from flows.machine import energy
from flows.machine.energy import EnergyMeter
from nanogpt.energy_meters import Counter, PowerMeter, load_of_mac, meters, watts_of_gpus, watts_of_mac

pytestmark = pytest.mark.fast


def zone(folder, name: str, kind: str, microjoules: int | None, limit: int = 1_000_000_000):
    place = folder / name
    place.mkdir(parents=True)
    (place / "name").write_text(f"{kind}\n")
    (place / "max_energy_range_uj").write_text(f"{limit}\n")
    if microjoules is not None:
        (place / "energy_uj").write_text(f"{microjoules}\n")
    return place / "energy_uj"


@pytest.fixture
def moments(monkeypatch):
    """Seconds between looks, one after another."""
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(energy, "time", SimpleNamespace(monotonic=lambda: clock.now))
    return clock


def test_rapl_counts_packages_and_their_memory_over_the_end_of_the_counter_and_over_sessions(tmp_path, moments):
    rapl, file = tmp_path / "powercap", tmp_path / "energy.json"
    first = zone(rapl, "intel-rapl:0", "package-0", 900_000_000)
    second = zone(rapl, "intel-rapl:1", "package-1", 5_000_000)
    zone(rapl, "intel-rapl:0:0", "core", 1)  # a part of the package: it would count twice
    memory = zone(rapl, "intel-rapl:0:1", "dram", 0)
    meter = EnergyMeter(file, lambda: meters(rapl))
    meter.begin(continues=False)
    moments.now = 20.0
    first.write_text("100000000")  # 200 J: it has begun again
    second.write_text("15000000")  # 10 J
    memory.write_text("3000000")
    used = meter.look()
    assert used.joules == {"processor": 210.0, "memory": 3.0} and used.seconds == 20.0
    again = EnergyMeter(file, lambda: meters(rapl))
    again.begin(continues=True)
    moments.now = 30.0
    first.write_text("101000000")
    assert again.look().joules == {"processor": 211.0, "memory": 3.0} and again.used.seconds == 30.0
    anew = EnergyMeter(file, lambda: meters(rapl))
    anew.begin(continues=False)
    assert anew.used.total is None


def test_a_counter_that_nobody_may_read_and_a_machine_without_any_say_why(tmp_path):
    zone(tmp_path / "closed", "intel-rapl:0", "package-0", None)
    found, why = meters(tmp_path / "closed")
    assert not found and "only root may read it" in why
    assert "no meter" in meters(tmp_path / "nothing")[1]
    meter = EnergyMeter(tmp_path / "energy.json", lambda: ([], why))
    meter.begin(continues=False)
    assert meter.look().total is None and "only root" in meter.used.unknown and not (tmp_path / "energy.json").exists()


def test_power_stands_for_the_time_since_the_look_before_but_not_for_hours(tmp_path, moments):
    watts = [60.0, None, 60.0]
    meter = EnergyMeter(tmp_path / "e.json", lambda: ([PowerMeter("GPU", lambda: watts.pop(0))], ""))
    meter.begin(continues=False)
    for moments.now in (10.0, 20.0, 20_000.0):
        used = meter.look()
    assert used.joules == {"GPU": 600.0} and used.seconds == 10.0


def test_a_counter_that_goes_away_counts_nothing():
    readings = [5.0, None, 9.0, 11.0]
    counter = Counter("processor", lambda: readings.pop(0), 100.0)
    assert [counter.since(1.0) for _ in range(3)] == [None, None, 2.0]


@pytest.mark.parametrize(
    "said, watts", [("61.23\n", 61.23), ("61.25\n[N/A]\n10\n", 71.25), ("[N/A]\n", None), ("", None)]
)
def test_what_nvidia_smi_says(said, watts):
    assert watts_of_gpus(said) == watts


def test_what_powermetrics_says():
    assert watts_of_mac("CPU Power: 4000 mW\nCombined Power (CPU + GPU + ANE): 5321 mW\n") == 5.321
    assert watts_of_mac("powermetrics must be invoked as the superuser") is None


def test_what_a_mac_with_a_battery_says_to_anybody():
    said = '"PowerTelemetryData" = {"SystemPowerIn"=9313,"BatteryPower"=0,"SystemLoad"=8963}'
    assert load_of_mac(said) == 8.963 and load_of_mac("") is None
