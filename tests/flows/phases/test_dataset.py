"""Damage to what is learned from: noticed, named, made again as it was; and a person's own text that changed."""

import hashlib
import os
import shutil
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows.full_run import PHASES
from flows.ledger.facts import CLEANED, FETCHED
from flows.phases import dataset
from flows.runner.repair import remake_damaged
from flows.runner.run import Run
from nanogpt.data import shards
from nanogpt.faults import CorruptFileError, UserError
from nanogpt.sources import fetching
from nanogpt.sources.catalogue import CATALOGUE, PublicFile
from tests.flows.parts import assembled

TEXT = "".join(f"{number} bottles of beer on the wall;\n" for number in range(300))
PLAY = PublicFile("play", "play.txt", (), hashlib.sha256(TEXT.encode()).hexdigest(), len(TEXT))


class Desk:
    """A workspace in which runs fetch, clean and tokenise; each `start` is what a new process would see."""

    def __init__(self, folder):
        self.workspace, self.own, self.mirror = folder / "workspace", folder / "own.txt", folder / "mirror"
        self.own.write_text(TEXT)
        self.mirror.mkdir()
        (self.mirror / PLAY.file).write_text(TEXT)
        self.data = self.workspace / "data/default"

    def start(self, source: str, *arguments: str) -> Run:
        run = assembled(self.workspace, PHASES, None, "--data", source, "--set", "data.bpe_vocab_size=300", *arguments)
        run.clock.save()
        return run

    def done(self, source: str, *arguments: str) -> Run:
        run = self.start(source, *arguments)
        run.run_phase(dataset.PHASE)
        return run

    def from_mirror(self, *arguments: str) -> Run:
        return self.done("play", "--set", f"data.mirror={self.mirror}", *arguments)

    def bytes(self) -> dict:
        files = [path for path in (self.workspace / "data").rglob("*") if path.is_file()]
        return {path: path.read_bytes() for path in files if not path.name.startswith(".")}


@pytest.fixture
def desk(tmp_path, monkeypatch):
    known = replace(CATALOGUE["tiny_shakespeare"], name="play", file=PLAY, bytes=PLAY.bytes)
    monkeypatch.setitem(CATALOGUE, "play", known)
    return Desk(tmp_path)


def test_each_document_shows_that_the_run_is_alive(desk, tmp_path):
    (tmp_path / "texts").mkdir()
    for number in range(5):
        (tmp_path / f"texts/{number}.txt").write_text(f"{number} {TEXT}")
    pulses = []
    run = replace(desk.start(str(tmp_path / "texts")), pulse=lambda: pulses.append(True))
    run.run_phase(dataset.PHASE)
    assert states(run)["clean"] == "done" and len(pulses) == 2 * 5


def test_choices_of_cleaning_count_where_one_was_made(desk):
    """Runs from before there were any go on with the text that they have."""
    before = {"val_fraction": 0.05, "test_fraction": 0.05}
    assert dataset._clean_settings(desk.start("play")) == {"data": before}
    chosen = desk.start("play", "--set", "data.private_data=redact", "--set", "data.quality=[bullets]")
    assert dataset._clean_settings(chosen) == {"data": before | {"private_data": "redact", "quality": ["bullets"]}}


def states(run: Run) -> dict[str, str]:
    return {record.name.removeprefix("dataset."): record.state for record in run.step_runner.records("dataset")}


def replaced_by_a_folder(path):
    path.unlink()
    (path / "within").mkdir(parents=True)


def linked_to_nothing(path):
    path.unlink()
    path.symlink_to("nothing")


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-2]),
    "empty": lambda path: path.write_bytes(b""),
    "zeroed": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "one bit flipped": lambda path: path.write_bytes(bytes([path.read_bytes()[0] ^ 1]) + path.read_bytes()[1:]),
    "deleted": lambda path: path.unlink(),
    "a folder": replaced_by_a_folder,
    "a dangling link": linked_to_nothing,
}
FILES = {
    "downloads/play.txt": "fetch", "default/text/train.txt": "clean", "default/text/statistics.json": "clean",
    "default/char/train.bin": "characters", "default/char/tokenizer.json": "characters",
    "default/char/manifest.json": "characters", "default/bpe/val.bin": "bpe",
}  # fmt: skip


@pytest.mark.parametrize(
    "file, damage", [("default/char/train.bin", damage) for damage in DAMAGES] + [(file, "zeroed") for file in FILES]
)
def test_damage_between_two_starts_is_named_and_made_again_as_it_was(desk, file, damage):
    desk.from_mirror()
    before = desk.bytes()
    DAMAGES[damage](desk.workspace / "data" / file)
    run = desk.from_mirror()
    assert states(run) == {name: "done" if name == FILES[file] else "kept" for name in states(run)}
    [remedy] = run.journal.remedies
    assert file in remedy.evidence and remedy.step == f"dataset.{FILES[file]}"
    assert {path: content for path, content in desk.bytes().items() if path in before} == before
    assert set(states(desk.from_mirror()).values()) == {"kept"}


@pytest.mark.parametrize(
    "file, damage",
    [("default/char/train.bin", "a folder"), ("default/text/val.txt", "deleted"), ("downloads/play.txt", "truncated")],
)
def test_damage_during_a_session_is_made_again_as_it_was(desk, file, damage):
    run = desk.from_mirror()
    before = desk.bytes()
    assert remake_damaged(run, "dataset") == []
    DAMAGES[damage](desk.workspace / "data" / file)
    [damage] = remake_damaged(run, "dataset")
    assert file in damage and run.journal.remedies[-1].evidence == damage
    assert {path: content for path, content in desk.bytes().items() if path in before} == before
    assert remake_damaged(run, "dataset") == []


def test_a_lost_download_comes_back_without_network_or_mirror(desk):
    desk.from_mirror()
    shutil.rmtree(desk.mirror)
    desk.mirror.mkdir()
    (desk.workspace / "data/downloads/play.txt").unlink()
    run = desk.from_mirror()
    assert run.facts(FETCHED).source == "play" and states(run)["clean"] == "kept"


def test_what_cannot_be_made_again_as_it_was_is_no_data_to_continue_with(desk, monkeypatch):
    run, carried = desk.from_mirror(), desk.workspace / "data/downloads/embedded.txt"
    monkeypatch.setattr(fetching, "write_embedded", lambda folder: (carried.write_text(TEXT[::-1]), carried)[1])
    shutil.rmtree(desk.mirror)
    desk.mirror.mkdir()
    (desk.workspace / "data/downloads/play.txt").unlink()
    (desk.data / "text/val.txt").unlink()
    with pytest.raises(RuntimeError, match=r"play\.txt is missing, and it cannot be made again as it was"):
        remake_damaged(run, "dataset")
    again = desk.from_mirror()
    assert again.facts(FETCHED).source == "embedded", "the next source, and that is said"
    assert any("embedded" in remedy.remedy for remedy in run.journal.remedies)


def test_each_failed_place_is_a_row_of_the_report(desk):
    (desk.mirror / "play.txt").write_text("another play")
    other = desk.mirror.with_name("other")
    shutil.copytree(desk.mirror, other)
    (other / "play.txt").write_text(TEXT)
    run = desk.done("play", "--set", f"data.mirror={desk.mirror},{other}")
    [remedy] = run.journal.remedies
    assert remedy.symptom == "download" and str(desk.mirror) in remedy.evidence
    assert run.facts(FETCHED).origin == str(other / "play.txt")


def test_a_text_of_ones_own_that_changed_is_named_and_learned_anew(desk):
    desk.done(str(desk.own))
    desk.own.write_text(TEXT + "one more\n")
    run = desk.start(str(desk.own))
    fetch = run.step(FETCHED)
    decision = run.ledger.decide(fetch, fetch.settings(run))
    assert decision.reason.startswith("data.content.own.txt ")
    assert set(states(desk.done(str(desk.own))).values()) == {"done"}


def test_a_text_of_ones_own_that_is_gone_is_a_mistake_with_its_name(desk):
    desk.done(str(desk.own))
    desk.own.unlink()
    with pytest.raises(UserError, match=r"no file or folder .*own\.txt"):
        run = desk.start(str(desk.own))
        run.step(FETCHED).settings(run)


@pytest.mark.parametrize("gone", [True, False])
def test_a_text_that_changes_while_it_is_read_is_never_silently_another(desk, gone):
    run = desk.start(str(desk.own))
    run.do(FETCHED)
    desk.own.unlink() if gone else desk.own.write_text(TEXT.replace("beer", "wine"))
    words = "own.txt cannot be read" if gone else "own.txt has changed since it was read"
    with pytest.raises(UserError, match=words):
        run.do(CLEANED)


@given(st.data())
def test_wherever_a_shard_is_damaged_it_is_noticed(tmp_path_factory, data):
    folder = tmp_path_factory.getbasetemp() / "any_shard"
    if not folder.exists():
        desk = Desk(tmp_path_factory.mktemp("desk"))
        shutil.copytree(desk.done(str(desk.own)).paths.data / "char", folder)
    name = data.draw(st.sampled_from(sorted(shards.read_manifest(folder).files)))
    whole = (folder / name).read_bytes()
    at = data.draw(st.integers(0, len(whole) - 1))
    how = data.draw(st.sampled_from(["flip", "cut", "zero", "insert"]))
    kept = whole[at : at + 64]
    rest = {"flip": bytes([kept[0] ^ 1 << at % 8]) + whole[at + 1 :], "cut": b"", "insert": b"\0" + whole[at:],
            "zero": bytes(len(kept)) + whole[at + 64 :]}[how]  # fmt: skip
    (folder / name).write_bytes(whole[:at] + rest)
    try:
        if whole[:at] + rest == whole:
            shards.verify(folder)
        else:
            with pytest.raises(CorruptFileError, match=name):
                shards.verify(folder)
    finally:
        (folder / name).write_bytes(whole)


def test_a_run_learns_from_the_folder_that_it_writes_into_and_never_from_what_it_wrote(desk):
    """One's own texts lie in the workspace, a name that is not UTF-8 among them; other runs have their data there."""
    texts = desk.workspace / "data"
    texts.mkdir(parents=True)
    (texts / os.fsdecode(b"caf\xe9.txt")).write_text(TEXT)
    desk.from_mirror("--run", "neighbour")
    before = desk.done(str(desk.workspace)).facts(CLEANED)
    assert before.documents == 1 and before.characters == len(TEXT)
    for source in (desk.workspace, texts):
        run = desk.done(str(source), "--fresh")
        assert run.facts(CLEANED) == before, "the second time as the first"
        assert run.facts(FETCHED).files == [f"{texts}/caf\\xe9.txt"]
    with pytest.raises(UserError, match="is output"):
        fetching.check_source(str(texts / "default/text"))
