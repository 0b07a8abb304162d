"""A laptop around a run: its battery runs low, it sleeps, it gets hot - with what psutil and pmset say of it."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from types import SimpleNamespace

import psutil
import pytest

from flows.context import budget_clock as clock
from flows.context.options import CHECKOUT, parse
from flows.display.plain import PlainDisplay
from flows.machine import awake, power
from flows.machine import conditions as surroundings
from flows.runner.run import Run
from flows.supervision import supervisor
from flows.supervision.recovery import Treatment
from nanogpt import durable
from nanogpt.config import save_config
from nanogpt.training.trainer import train
from tests.nanogpt.training_case import make_data, tiny

STEP = "training.micro"


class Laptop:
    """Its battery's story, one state a look; the last one lasts."""

    def __init__(self, monkeypatch):
        self.story: list[tuple[float, bool | None] | None] = [(80.0, True)]
        monkeypatch.setattr(psutil, "sensors_battery", self._battery, raising=False)
        monkeypatch.setattr(surroundings, "SECONDS_BETWEEN_LOOKS", 0.0)

    def _battery(self):
        state = self.story.pop(0) if len(self.story) > 1 else self.story[0]
        return state and SimpleNamespace(percent=state[0], power_plugged=state[1], secsleft=0)


@pytest.fixture
def laptop(monkeypatch) -> Laptop:
    return Laptop(monkeypatch)


@pytest.fixture
def start(tmp_path):
    def start(*arguments: str) -> Run:
        run = Run(parse(["--workspace", str(tmp_path), *arguments]))
        run.display = PlainDisplay()
        return run

    return start


def log_of(run: Run) -> str:
    return run.log.path.read_text()


# Battery ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("state, pauses", [
    ((19.0, False), True),  # low and on battery
    ((20.0, False), False),  # the set charge itself is enough
    ((5.0, True), False),  # charging
    ((5.0, None), False),  # the system does not say: a run is not stopped on a guess
    (None, False),  # no battery
])  # fmt: skip
def test_training_pauses_only_below_the_set_charge_and_on_battery(start, laptop, state, pauses):
    laptop.story = [state]
    assert bool(start().surroundings.reason_to_pause(STEP)) == pauses
    assert start("--min-charge", "0").surroundings.reason_to_pause(STEP) == ""


def test_it_goes_on_at_five_percent_more_and_the_wait_is_not_the_budgets(start, laptop, monkeypatch):
    run, naps, real = start("--min-charge", "30"), [], time.monotonic
    clocks = SimpleNamespace(sleep=naps.append, monotonic=lambda: real() + 600 * len(naps))
    monkeypatch.setattr(surroundings, "time", clocks)
    monkeypatch.setattr(clock, "time", clocks)
    monkeypatch.setattr(clock, "seconds_asleep", lambda: 0.0)
    laptop.story = [(29.0, False), (25.0, False), (34.0, False), (35.0, False)]
    spent = run.clock.spent
    run.surroundings.wait_for_power(STEP)
    assert len(naps) == 3
    assert run.clock.spent - spent < 60
    [row] = run.remedies
    assert (row["symptom"], row["step"], row["evidence"]) == ("low_charge", STEP, "battery 29 %, discharging")
    assert row["outcome"] == "went on with battery 35 %, discharging" and row["cost_seconds"] >= 1800
    assert "waits for power, or for 35 %" in log_of(run)


def test_it_goes_on_as_soon_as_there_is_power(start, laptop):
    run = start()
    laptop.story = [(3.0, False), (2.0, False), (2.0, True)]
    run.surroundings.wait_for_power(STEP)
    assert run.remedies[0]["outcome"] == "went on with battery 2 %, on power"
    run.surroundings.wait_for_power(STEP)
    assert len(run.remedies) == 1


def test_a_person_can_stop_a_run_that_waits(start, laptop, monkeypatch):
    def interrupted(seconds):
        raise KeyboardInterrupt

    run = start()
    monkeypatch.setattr(surroundings, "time", SimpleNamespace(sleep=interrupted, monotonic=time.monotonic))
    laptop.story = [(3.0, False)]
    with pytest.raises(KeyboardInterrupt):
        run.surroundings.wait_for_power(STEP)
    before = run.clock.spent
    assert 0 <= run.clock.spent - before < 1  # the clock runs again


def test_the_machine_may_sleep_while_the_run_waits(start, laptop, monkeypatch):
    run, held = start(), []
    monkeypatch.setattr(awake.Awake, "hold", lambda self: held.append("held") or "")
    monkeypatch.setattr(awake.Awake, "release", lambda self: held.append("released"))
    run.surroundings.begin()
    laptop.story = [(3.0, False), (3.0, True)]
    run.surroundings.wait_for_power(STEP)
    run.surroundings.end()
    assert held == ["held", "released", "held", "released"]


@pytest.mark.slow
def test_a_real_child_is_asked_to_save_before_the_wait(tmp_path, monkeypatch):
    script = tmp_path / "trainer.py"
    script.write_text(
        textwrap.dedent("""
        import signal, sys, time
        from pathlib import Path
        def save(number, frame):
            Path(sys.argv[1], "saved").touch()
            sys.exit(143)
        signal.signal(signal.SIGTERM, save)
        Path(sys.argv[1], "heartbeat").write_text('{"step": 1}')
        time.sleep(60)
    """)
    )
    monkeypatch.setattr(supervisor, "trainer_command", lambda arguments: [sys.executable, str(script), str(tmp_path)])
    beats = []
    ending = supervisor.train([], tmp_path, tmp_path / "log", beats.append,
                              reason_to_pause=lambda: "battery 3 %" if beats else "")  # fmt: skip
    assert (ending.symptom, ending.evidence) == ("paused", "battery 3 %")
    assert (tmp_path / "saved").exists()


@pytest.mark.slow
def test_a_training_that_waited_for_power_ends_as_if_it_had_not(start, laptop, monkeypatch, tmp_path):
    # A heartbeat comes every second and at each evaluation: else so short a training is over before it is asked.
    run, config = start(), tiny(max_iters=300, checkpoint_interval=200, eval_interval=30, log_interval=5)
    config = config.with_changes({"data.tokenizer": "char"})
    data = make_data(run.paths.data)
    save_config(config, run.paths.configs / "tiny.yaml")
    folder = run.paths.checkpoints / "tiny"

    def battery():
        """Unplugged at step 20, plugged in at the third look at it."""
        low = not run.remedies and laptop.story and _step_of(folder) >= 20
        if low:
            laptop.story.pop()
        return SimpleNamespace(percent=10.0, power_plugged=not low, secsleft=0)

    laptop.story = [None] * 3
    monkeypatch.setattr(psutil, "sensors_battery", battery, raising=False)
    monkeypatch.setattr(supervisor, "POLL_SECONDS", 0.02)
    ending = Treatment(run, config, folder).until_it_ends()
    # Beside it, so quick a training may skip a bad step, on one processor's rounding and not on another's.
    assert [row["symptom"] for row in run.remedies].count("low_charge") == 1
    uninterrupted = train(config, data, tmp_path / "uninterrupted")
    assert ending.outcome["sha256"] == uninterrupted.sha256


def _step_of(folder) -> int:
    try:
        return durable.read_json(folder / "heartbeat").get("step", 0)
    except (OSError, ValueError):
        return 0


def test_plugging_in_and_out_is_noted(start, laptop):
    laptop.story = [(80.0, True)]
    run = start()
    run.surroundings.begin()
    laptop.story = [(80.0, False), (79.0, False), (79.0, True)]
    for _ in range(3):
        run.surroundings.look(STEP)
    assert "power and heat: battery 80 %, on power" in log_of(run)
    assert log_of(run).count("power: battery") == 2


# Sleep ------------------------------------------------------------------------------------------------------------


def test_sleep_is_told_once_and_left_out_of_the_budget(start, laptop, monkeypatch):
    run, before = start(), clock.seconds_asleep()  # a laptop that runs this has slept already
    monkeypatch.setattr(clock, "seconds_asleep", lambda: before + 2580.0)
    for _ in range(2):
        run.surroundings.look(STEP)
    [row] = run.remedies
    assert (row["symptom"], row["cost_seconds"]) == ("asleep", pytest.approx(2580, abs=60))
    assert "asleep for 43 min" in log_of(run) and run.clock.spent < 60


# Heat -------------------------------------------------------------------------------------------------------------


def test_heat_is_told_when_it_comes_and_when_it_goes(start, laptop, monkeypatch):
    monkeypatch.setattr(surroundings, "SECONDS_BETWEEN_THERMOMETERS", 0.0)
    monkeypatch.setattr(sys, "platform", "linux")
    temperature = SimpleNamespace(label="", current=60.0, high=100.0, critical=105.0)
    spare = SimpleNamespace(label="", current=45.0, high=None, critical=None)
    monkeypatch.setattr(psutil, "sensors_temperatures", lambda: {"coretemp": [spare, temperature]}, raising=False)
    run = start()
    run.surroundings.begin()
    for current in (70.0, 97.0, 99.0, 60.0):
        temperature.current = current
        run.surroundings.look(STEP)
    assert log_of(run).count("is hot") == log_of(run).count("cool again") == 1
    assert "(97 °C of 100 °C)" in log_of(run)


@pytest.mark.parametrize("said, hot", [
    ("CPU_Scheduler_Limit \t= 100\nCPU_Available_CPUs \t= 8\nCPU_Speed_Limit \t= 62\n", True),
    ("CPU_Speed_Limit \t= 100\n", False),
    ("Note: No thermal warning level has been recorded\nNote: No performance warning level has been recorded\n", False),
    ("", None),
])  # fmt: skip
def test_what_pmset_says_is_understood(said, hot):
    found = power.heat_in_pmset(said)
    assert (found and found.hot) == hot


@pytest.mark.parametrize("error", [AttributeError, FileNotFoundError, NotImplementedError, ValueError])
def test_where_nothing_is_told_nothing_is_claimed(start, monkeypatch, error):
    def unreadable():
        raise error("what the driver says")

    monkeypatch.setattr(psutil, "sensors_battery", unreadable, raising=False)
    monkeypatch.setattr(psutil, "sensors_temperatures", unreadable, raising=False)
    monkeypatch.setattr(sys, "platform", "linux")
    run = start()
    run.surroundings.begin()
    run.surroundings.look(STEP)
    assert "this machine tells nothing of them" in log_of(run)


# Awake ------------------------------------------------------------------------------------------------------------

INHIBITOR = """#!/bin/sh
while [ "$1" != cat ]; do shift; done
echo "$$" > "{folder}/pid"
"$@"
touch "{folder}/ended"
"""


def put_on_path(folder, monkeypatch, script: str, name: str = "systemd-inhibit") -> None:
    (folder / name).write_text(script)
    (folder / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_the_machine_is_kept_awake_until_it_is_let_go(tmp_path, monkeypatch):
    put_on_path(tmp_path, monkeypatch, INHIBITOR.format(folder=tmp_path))
    hold = awake.Awake()
    assert hold.hold() == "the machine stays awake while the run goes on (systemd-inhibit)"
    assert not (tmp_path / "ended").exists()
    hold.release()
    assert (tmp_path / "ended").exists()
    hold.release()


def test_why_nothing_keeps_it_awake_is_said_and_nothing_more(tmp_path, monkeypatch):
    put_on_path(tmp_path, monkeypatch, "#!/bin/sh\necho 'Failed to connect to bus' >&2\nexit 1\n")
    assert awake.Awake().hold().endswith("systemd-inhibit: Failed to connect to bus")
    put_on_path(tmp_path, monkeypatch, "\0not a program")
    assert "nothing here keeps the machine awake" in awake.Awake().hold()
    monkeypatch.setenv("PATH", str(tmp_path / "empty"))
    assert "no caffeinate, no systemd-inhibit" in awake.Awake().hold()


@pytest.mark.slow
def test_nothing_that_keeps_awake_outlives_a_killed_run(tmp_path, monkeypatch):
    put_on_path(tmp_path, monkeypatch, INHIBITOR.format(folder=tmp_path), "caffeinate")
    script = (
        "import time; from flows.machine.awake import Awake; a = Awake(); print(a.hold(), flush=True); time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", script], cwd=CHECKOUT, stdout=subprocess.PIPE, text=True)
    assert "(caffeinate)" in holder.stdout.readline()
    os.kill(holder.pid, signal.SIGKILL)
    holder.communicate()
    until = time.monotonic() + 10
    while psutil.pid_exists(int((tmp_path / "pid").read_text())) and time.monotonic() < until:
        time.sleep(0.05)
    assert (tmp_path / "ended").exists()
