"""Whatever happens to a chain of steps, a kept step is what running it now would make."""

from pathlib import Path
from tempfile import TemporaryDirectory
from unittest.mock import patch

from hypothesis import given, settings
from hypothesis import strategies as st

from flows.ledger.facts import Key, NoFacts
from flows.ledger.ledger import Ledger
from flows.ledger.steps import StepResult, StepSpec

# Each step writes text that depends on its setting and on the file before it. Halving makes different settings
# give the same output, so that a wave can stop.
NAMES = ("clean", "tokenise", "train")
STEPS = tuple(
    StepSpec(
        key=Key(name, NoFacts),
        title=name.title(),
        needs=NAMES[max(0, place - 1) : place],
        code=("nanogpt/*.py",),
    )
    for place, name in enumerate(NAMES)
)

step_numbers = st.integers(0, len(NAMES) - 1)
events = st.one_of(
    st.tuples(st.just("set"), step_numbers, st.integers(0, 5)),
    st.tuples(st.just("edit code"), st.integers(0, 3)),
    st.tuples(st.just("run"), st.none()),
    st.tuples(st.just("crash"), step_numbers, st.booleans()),
    st.tuples(st.just("fail"), step_numbers),
    st.tuples(st.just("damage"), step_numbers, st.sampled_from(["cut", "grow", "flip", "delete"])),
    st.tuples(st.just("damage marker"), step_numbers, st.integers(0, 200), st.sampled_from(["markers", "copies"])),
)


class World:
    def __init__(self, folder: Path):
        self.folder = folder
        self.settings = {name: 0 for name in NAMES}
        self.code = folder / "nanogpt" / "code.py"
        self.code.parent.mkdir()
        self.code.write_text("0")

    def expected(self, place: int) -> str:
        """What running the steps up to `place` would write now."""
        before = self.expected(place - 1) if place else ""
        return f"{before}{NAMES[place]} {self.settings[NAMES[place]] // 2} by {int(self.code.read_text()) // 2}\n"

    def output(self, place: int) -> Path:
        return self.folder / f"{NAMES[place]}.txt"

    def run(self, stop_at: int | None = None, how: str = "crash", partly: bool = False) -> list[str]:
        """The command a person gives; what it ran. It may end at a step, after some of that was written."""
        ledger, ran = Ledger(self.folder / "markers", self.folder, self.folder), []
        for place, step in enumerate(STEPS):
            wanted = {"value": self.settings[step.name]}
            decision = ledger.decide(step, wanted)
            assert decision.reason
            if decision.keep:
                assert self.output(place).read_text() == self.expected(place)
                continue
            ledger.start(step, wanted, decision.reason)
            ran.append(step.name)
            before = self.output(place - 1).read_text() if place else ""
            text = f"{before}{step.name} {wanted['value'] // 2} by {int(self.code.read_text()) // 2}\n"
            if place == stop_at:
                if partly:
                    self.output(place).write_text(text[:5])
                if how == "fail":
                    ledger.fail(step, "a fault")
                return ran
            self.output(place).write_text(text)
            ledger.finish(step, StepResult(NoFacts(), [self.output(place)]), seconds=0.0)
        return ran

    def damage(self, path: Path, how: str) -> None:
        if not path.exists():
            return
        data = path.read_bytes()
        if how == "delete":
            path.unlink()
        else:
            path.write_bytes({"cut": data[:-1], "grow": data + b"\n", "flip": data[:-1] + b"?"}[how])

    def meet(self, event: tuple) -> None:
        kind, *rest = event
        if kind == "set":
            self.settings[NAMES[rest[0]]] = rest[1]
        elif kind == "edit code":
            self.code.write_text(str(rest[0]))
        elif kind == "run":
            self.run()
        elif kind in ("crash", "fail"):
            self.run(stop_at=rest[0], how=kind, partly=kind == "crash" and rest[1])
        elif kind == "damage":
            self.damage(self.output(rest[0]), rest[1])
        else:
            marker = self.folder / rest[2] / f"{NAMES[rest[0]]}.json"
            if marker.exists():
                marker.write_bytes(marker.read_bytes()[: rest[1]])


@settings(max_examples=80, deadline=None)
@given(st.lists(events, max_size=12))
def test_a_kept_step_is_what_running_it_now_would_make(happenings):
    with TemporaryDirectory() as folder, patch("nanogpt.durable.os.fsync"):
        world = World(Path(folder))
        for event in happenings:
            world.meet(event)
        world.run()
        assert [world.output(place).read_text() for place in range(3)] == [world.expected(place) for place in range(3)]
        assert world.run() == [], "a step that finished on the same inputs ran again"


@settings(max_examples=40, deadline=None)
@given(step_numbers, st.integers(0, 5))
def test_a_changed_setting_runs_its_step_and_then_only_what_gets_other_input(place, value):
    with TemporaryDirectory() as folder, patch("nanogpt.durable.os.fsync"):
        world = World(Path(folder))
        world.run()
        world.settings[NAMES[place]] = value
        ran = list(NAMES[place:]) if value >= 2 else [NAMES[place]] if value else []
        assert world.run() == ran


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_wherever_a_bit_of_a_marker_flips_it_is_noticed_or_means_nothing(data):
    with TemporaryDirectory() as folder, patch("nanogpt.durable.os.fsync"):
        world = World(Path(folder))
        world.run()
        file = world.folder / "markers" / "train.json"
        ledger = Ledger(file.parent, world.folder, world.folder)
        whole, marker = file.read_bytes(), ledger.marker("train")
        bit = data.draw(st.integers(0, 8 * len(whole) - 1))
        flipped = bytearray(whole)
        flipped[bit // 8] ^= 1 << bit % 8
        file.write_bytes(flipped)
        decision = ledger.decide(STEPS[2], {"value": 0})
        believed = ledger.marker("train")
        assert decision.keep and believed == marker
        assert world.run() == []
