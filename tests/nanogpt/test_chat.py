"""`nanogpt chat`: a talk as a play, its commands, and how it looks on a terminal."""

import io
import json
import os
import re
import shutil
import stat
import sys
import time
from pathlib import Path

import pytest

from nanogpt import cli
from tests.nanogpt import talking_model

CHECKOUT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return talking_model.write(tmp_path_factory.mktemp("talking"))


@pytest.fixture
def talk(model, monkeypatch, capsys):
    """What a chat writes to stdout and stderr when this is typed, one line after the other."""

    def hold(*lines: str, options: tuple[str, ...] = ()) -> tuple[str, str]:
        monkeypatch.setattr(sys, "stdin", io.StringIO("".join(f"{line}\n" for line in lines)))
        assert cli.main(["chat", str(model), "--tokens", "12", "--backend", "torch", *options]) == 0
        return capsys.readouterr()

    return hold


@pytest.mark.fast
def test_you_and_the_model_speak_in_turn(talk, model):
    out, err = talk("hello", "", "good night")
    assert out == (
        "ROMEO: hello\nJULIET: go go go go \n\nROMEO: \nROMEO: good night\nJULIET: go go go go \n\nROMEO: \n"
    )
    first, second, *_ = err.splitlines()
    assert re.match(rf"{re.escape(str(model))}: 59,392 parameters, sees 64 tokens, computed by ", first)
    assert "not taught to answer" in second and "you are ROMEO, it is JULIET" in second


@pytest.mark.fast
def test_the_model_reads_a_play(talk):
    out, _ = talk("hello", "one \\", "two", "/text", options=("--system", "It is late.", "--bot", "TIM"))
    # 64 tokens are too few for all: the oldest words are left out, the scene stays
    assert "It is late.\n\nROMEO:\none \ntwo\n\nTIM:\ngo go go go\n\nTIM:\n" in out
    assert "hello" not in out.split("/text")[1]


@pytest.mark.fast
def test_a_talk_that_is_too_long_is_said_once(talk):
    assert "forgets" not in talk("hello hello hello hello hello")[1]
    assert talk(*["hello hello hello"] * 6)[1].count("sees 64 tokens, too few for all of this talk") == 1
    help_text, _ = talk("/help")
    assert max(map(len, help_text.splitlines())) < 80


@pytest.mark.fast
def test_settings_change_what_comes_and_mistakes_change_nothing(talk):
    out, err = talk("/tokens 4", "hello", "/tokens", "/top-k 0", "/top-k x", "/top-k 3", "/top-k off", "/temp 1",
                    "/fly", "//x", "/temperature 0", "/seed 5", "hello")  # fmt: skip
    assert "JULIET: go g\n" in out and "ROMEO: //x\nJULIET" in out
    for words in (
        "tokens: 4",
        "top_k: found 0, should be 1 or more",
        "/top-k: found x, should be a whole number, or off",
        "top-k: 3",
        "top-k: off",
        '/temp: no such command (did you mean "/temperature"?)',
        "/fly: no such",
        "temperature: 0.0",
        "seed: 5",
    ):
        assert words in err, words
    help_text, _ = talk("/help")
    named = set(re.findall(r"^  /([a-z-]+)", help_text, re.MULTILINE))
    assert named > {"help", "save", "load", "temperature", "reset", "quit", "retry", "seed", "top-p"}


@pytest.mark.fast
def test_the_last_words_are_answered_again_and_a_talk_begins_anew(talk):
    out, err = talk("/retry", "hello", "/retry", "/text", "/reset", "/text", "/quit", "never read")
    assert "you have not said anything yet" in err
    assert out.count("JULIET: go go go go \n") == 2
    assert "/text\nROMEO:\nhello\n\nJULIET:\ngo go go go\n\nJULIET:\n" in out
    assert out.endswith("/text\nJULIET:\n\nROMEO: /quit\n")


@pytest.mark.fast
def test_a_talk_is_saved_and_continued(talk, tmp_path):
    file = tmp_path / "my talk.json"
    _, err = talk("hello", f"/save {file}", f"/save {file}", options=("--system", "late.", "--you", "TOM"))
    saved = json.loads(file.read_text())
    assert saved["messages"] == [
        {"role": "system", "content": "late."}, {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "go go go go "},
    ]  # fmt: skip
    assert err.count("saved 2 messages to ") == 2
    out, err = talk(f"/load {file}", "/text", "/save " + str(file))
    assert "TOM: hello\n\nJULIET: go go go go \n\nTOM: /text\nlate.\n\nTOM:\nhello\n\n" in out
    assert "2 messages" in err
    assert "is there already" in talk("hello", f"/save {file}")[1]


def page_file(**changes) -> str:
    """As serving/page/conversation.js writes it: "hello" was edited, its first answer was written again."""

    def said(parent, role, text, pick=0):
        about = {"model": None, "finish": None, "stats": None, "tokens": []}
        return {"parent": parent, "role": role, "text": text, "pick": pick} | about

    nodes = [said(None, "user", "hello"), said(None, "user", "let us go", pick=1), said(1, "assistant", "no"),
             said(1, "assistant", "go on")]  # fmt: skip
    pane = {"model": "run/a", "chat": {"pick": 1, "nodes": nodes}, "text": {"pick": 0, "nodes": []}}
    names = {"user": "TOM", "assistant": "TIM"}
    content = {"format": "nanogpt conversation", "version": 1, "mode": "chat", "names": names, "system": "late.",
               "panes": [pane]}  # fmt: skip
    return json.dumps(content | changes)


@pytest.mark.fast
def test_a_talk_from_the_page_is_continued(talk, tmp_path):
    (tmp_path / "talk.json").write_text(page_file())
    out, err = talk(f"/load {tmp_path / 'talk.json'}", "/text", f"/save {tmp_path / 'talk.json'}")
    assert "late.\n\nTOM:\nlet us go\n\nTIM:\ngo on\n\nTIM:\n" in out and "hello" not in out + err
    assert "is there already" in err and (tmp_path / "talk.json").read_text() == page_file()


@pytest.mark.fast
@pytest.mark.parametrize(
    "content, message",
    [
        (page_file(version=2), "version: found 2, should be 1"),
        (
            page_file(
                panes=[{"chat": {"pick": 7, "nodes": [{"parent": None, "role": "user", "text": "", "pick": 0}]}}]
            ),
            "panes.0.chat: found pick 7, should be 0 to 0",
        ),
        (
            page_file(panes=[{"chat": {"pick": 0, "nodes": [{"parent": 0, "role": "user", "text": "", "pick": 0}]}}]),
            "panes.0.chat.nodes.0.parent: found 0, should be an earlier place",
        ),
        ("no json", "talk.json: is not JSON: expected ident"),
        ("{}", "messages: found {}, should"),
        (
            '{"messages": [{"role": "king", "content": ""}]}',
            "messages.0: found 'king', should be 'system', 'user' or 'assistant'",
        ),
        (None, "No such file or directory"),
    ],
)
def test_a_file_that_is_no_talk_is_named_and_the_talk_goes_on(talk, tmp_path, content, message):
    file = tmp_path / "talk.json"
    if content is not None:
        file.write_text(content)
    out, err = talk(f"/load {file}", "/save", "/save /proc/x/y", "hello")
    assert f"/load {file}: " in err and message in err and "Traceback" not in err
    assert "/save: needs the name of a file" in err and "/save /proc/x/y: " in err
    assert "JULIET: go" in out


@pytest.mark.fast
def test_what_can_be_no_file_is_named_and_the_talk_goes_on(talk, tmp_path):
    os.mkfifo(tmp_path / "pipe")
    out, err = talk("/save a\0b", "/load a\0b", f"/load {tmp_path / 'pipe'}", "hello")
    assert "/save: needs the name of a file" in err and "/load: needs the name of a file" in err
    assert f"/load {tmp_path / 'pipe'}: not a plain file" in err and "JULIET: go" in out


@pytest.mark.fast
def test_control_characters_of_a_talk_reach_a_terminal_only_when_asked(talk, tmp_path, monkeypatch):
    file = tmp_path / "talk.json"
    file.write_text(json.dumps({"messages": [{"role": "assistant", "content": "\x1b[2J"}]}))
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    out, _ = talk(f"/load {file}", "/text")
    assert out.count("\\x1b[2J") == 2 and "\x1b" not in out
    assert "\x1b[2J" in talk(f"/load {file}", options=("--raw",))[0]


@pytest.mark.fast
def test_what_the_model_cannot_read_is_said_with_its_share(talk):
    out, err = talk("h€llö")
    assert "2 of 5 characters (40 %) are outside the model's vocabulary: '€' (1), 'ö' (1)" in err
    assert "JULIET: go" in out


@pytest.mark.fast
@pytest.mark.parametrize(
    "folder, message",
    [
        ("absent", "absent: there is no such file or folder; `python3 -m flows.full_run` makes one"),
        (".", ".: holds no model itself; exports/night/best would do"),
        ("exports", "exports: holds no model itself; exports/night/best would do"),
        ("empty", "empty: holds no model"),
    ],
)
def test_where_no_model_is_it_says_where_one_is_or_what_makes_one(
    model, folder, message, tmp_path, monkeypatch, capsys
):
    shutil.copytree(model, tmp_path / "exports/night/best")
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path)
    for command in ("chat", "generate"):
        assert cli.main([command, folder]) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and message in error


@pytest.mark.slow
def test_on_a_terminal(model, tmp_path):
    """One talk: multi-line words, Ctrl-C in an answer and at the prompt, a size that changes, a history."""
    pytest.importorskip("pyte")
    from tests.flows.test_on_a_terminal import TerminalOf

    command = [sys.executable, "-m", "nanogpt.cli", "chat", str(model), "--tokens", "12", "--device", "cpu"]
    terminal = TerminalOf(command, 76, 60, XDG_STATE_HOME=str(tmp_path), NO_COLOR="")

    def see(pattern: str) -> None:
        terminal.wait_for(lambda: re.search(pattern, terminal.picture(), re.MULTILINE) is not None, pattern)

    def type_and_see(keys: str, pattern: str) -> None:
        terminal.type(keys.encode())
        see(pattern)

    def interrupt() -> None:
        """As soon after the prompt as a person can: CPython notices a signal only at the next key where it comes
        between the prompt and the wait for keys."""
        time.sleep(0.5)
        terminal.type(b"\x03")

    try:
        see(r"Ctrl-D leaves\.\n\nROMEO:$")
        type_and_see("hello\r", r"ROMEO: hello\nJULIET: go go go go\n.*/tokens changes that\)\n\nROMEO:$")
        type_and_see("one \\\rtwo\r", r"\.\.\. two\n(.*\n)*JULIET: go go go go\n(.*\n)+ROMEO:$")
        type_and_see('"""\rthree\r"""\r', r'"""\n\.\.\. three\n\.\.\. """\n(.*\n)*JULIET: go go go go\n(.*\n)+ROMEO:$')
        type_and_see("/tok\t1000000\r", r"ROMEO: /tokens 1000000\ntokens: 1000000\nROMEO:$")
        type_and_see("on!\r", r"on!\nJULIET: go go go go go")
        terminal.resize(70, 60)
        type_and_see("\x03", r"\^\n?C.*\n\nROMEO:$")
        assert terminal.process.poll() is None
        terminal.type(b"/tokens 12\r\x1b[A\x1b[A")  # the arrow key up finds what was said before
        see(r"ROMEO: on!$")
        type_and_see("\r", r"on!\nJULIET: go go go go\n.*\n\nROMEO:$")
        type_and_see("half", r"ROMEO: half$")
        interrupt()
        see(r"half(\^C)?\n.*leaves\.\nROMEO:$")
        type_and_see("whole\r", r"whole\nJULIET: go go go go\n(.*\n)+ROMEO:$")
        interrupt()
        see(r"whole\n(.*\n)+.*leaves\.\nROMEO:$")
        interrupt()
        assert terminal.wait() == 0
    finally:
        terminal.close()
    history = tmp_path / "nanogpt/chat"
    assert history.read_text().splitlines()[:3] == ["hello", "one \\", "two"]
    assert stat.S_IMODE(history.stat().st_mode) == 0o600
