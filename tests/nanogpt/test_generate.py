"""`nanogpt generate`: one text or many, from a prompt, a file, a pipe or a terminal."""

import io
import json
import math
import re
import subprocess
import sys
from pathlib import Path

import pytest

from nanogpt import cli
from nanogpt.commands import texts, typed
from nanogpt.commands.texts import Request, in_order
from nanogpt.export import huggingface
from nanogpt.inference.engine import Engine
from nanogpt.inference.options import Options
from nanogpt.inference.speculation import speculate
from nanogpt.tokenizers.characters import CharTokenizer
from tests.nanogpt import talking_model
from tests.nanogpt.model_case import randomised, small

CHECKOUT = Path(__file__).parents[2]
LETTERS = CharTokenizer(talking_model.ALPHABET)


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("letters")
    huggingface.export(randomised(small(vocab_size=LETTERS.vocab_size)), LETTERS, folder)
    return folder


@pytest.fixture
def generate(model, capsys):
    """Exit code, stdout and stderr of a command on the CPU."""

    def run(*arguments: str) -> tuple[int, str, str]:
        code = cli.main(["generate", str(model), "--tokens", "8", "--backend", "torch", *map(str, arguments)])
        return code, *capsys.readouterr()

    return run


def records(out: str) -> list[dict]:
    return [json.loads(line) for line in out.splitlines()]


@pytest.mark.fast
def test_a_pipe_is_the_prompt(generate, monkeypatch):
    expected = generate("--prompt", "two\nlines", "--seed", "1")
    monkeypatch.setattr(sys, "stdin", io.StringIO("two\nlines\n"))
    assert generate("--seed", "1") == expected
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert generate("--seed", "1") == generate("--prompt", "\n", "--seed", "1")


@pytest.mark.fast
def test_many_prompts_are_written_in_their_order_and_as_each_alone(generate, tmp_path):
    lines = ["go on", "", "let us", *(f"to {letter}" for letter in "abcdefghijklmnopqrs")]
    (tmp_path / "prompts.txt").write_text("\n".join(lines))
    code, out, _ = generate("--prompts", tmp_path / "prompts.txt", "--seed", "3", "--json", "--num-samples", "2")
    found = records(out)
    assert code == 0
    assert [(record["prompt"], record["sample"], record["seed"]) for record in found] == [
        (line, sample, 3 + sample) for line in lines if line for sample in (0, 1)
    ]
    for record in found[:4]:
        alone = records(generate("--prompt", record["prompt"], "--seed", record["seed"], "--json")[1])
        assert alone[0]["text"] == record["text"] and record["new_tokens"] == len(record["text"]) == 8
    plain = generate("--prompts", tmp_path / "prompts.txt", "--seed", "3", "--num-samples", "2")[1]
    assert plain.startswith(f"--- 1 of {len(found)} ---\ngo on{found[0]['text']}\n--- 2 of ")


@pytest.mark.fast
def test_lines_of_json_have_options_of_their_own(generate, tmp_path, monkeypatch):
    text = '{"prompt": "go on", "max_new_tokens": 3, "num_samples": 2}\n\n{"prompt": "go on", "temperature": 0}\n'
    monkeypatch.setattr(sys, "stdin", io.StringIO(text))
    found = records(generate("--prompts", "-", "--seed", "3", "--json")[1])
    assert [len(record["text"]) for record in found] == [3, 3, 8]
    [greedy] = records(generate("--prompt", "go on", "--temperature", "0", "--json")[1])
    assert found[2]["text"] == greedy["text"] and greedy["seed"] is None


@pytest.mark.fast
@pytest.mark.parametrize(
    "content, message",
    [
        ("", "holds no prompt"),
        ('{"prompt": "a"}\n{"prompt": "a", "top_kk": 1}', 'line 2: top_kk: unknown key (did you mean "top_k"?)'),
        ('{"prompt": "a"}\nplain', "line 2: is not JSON: expected value at line 1 column 1"),
        ('{"prompt": 1}', "line 1: prompt: found 1, should be a valid string"),
        ('{"prompt": "a", "top_p": 2}', "line 1: top_p: found 2.0, should be above 0 and at most 1"),
        ("go on\nÖÄÜ", "line 2: prompt: 3 of 3 characters (100 %)"),
    ],
)
def test_a_mistake_in_a_file_is_named_before_anything_is_written(generate, tmp_path, content, message):
    (tmp_path / "prompts").write_text(content)
    code, out, err = generate("--prompts", tmp_path / "prompts")
    assert (code, out) == (2, "") and message in err and err.count("\n") == 1 and "prompts" in err
    (tmp_path / "prompts").write_bytes(b"go on \xff")
    assert "prompts: byte 7 is not text in UTF-8" in generate("--prompts", tmp_path / "prompts")[2]
    assert "absent: No such file" in generate("--prompts", tmp_path / "absent")[2]


@pytest.mark.fast
def test_what_has_no_end_is_a_mistake(generate, tmp_path, monkeypatch):
    monkeypatch.setattr(typed, "MOST_TYPED", 1000)
    for option in ("--prompts", "--json-schema"):
        code, out, err = generate("--prompt" if option == "--json-schema" else "--seed", "1", option, "/dev/zero")
        assert (code, out) == (2, "") and "/dev/zero: holds more than 1,000 characters" in err
    with open("/dev/zero", encoding="utf-8") as endless:
        monkeypatch.setattr(sys, "stdin", endless)
        assert "standard input: holds more than 1,000 characters" in generate()[2]
    assert "beams: found 1000000000, should be from 1 to 1,000" in generate("--prompt", "a", "--beams", "1000000000")[2]


@pytest.mark.fast
def test_any_number_of_samples_begins_at_once(model):
    request = Request("go on", Options(max_new_tokens=1), copies=10**18)
    text, pieces = next(in_order(Engine.from_folder(model, backend="torch"), [request]))
    assert text.sample == 0 and next(pieces) is not None


@pytest.mark.fast
def test_each_token_has_its_probability_and_what_could_have_come(generate):
    [record] = records(generate("--prompt", "go on", "--seed", "1", "--logprobs", "2", "--json")[1])
    assert "".join(token["text"] for token in record["tokens"]) == record["text"]
    assert all(len(token["alternatives"]) == 2 for token in record["tokens"])
    out = generate("--prompt", "go on", "--seed", "1", "--logprobs", "2")[1]
    rows = out.removeprefix(f"go on{record['text']}\n").splitlines()
    assert len(rows) == len(record["tokens"]) == 8
    for row, token in zip(rows, record["tokens"], strict=True):
        likeliest, second = token["alternatives"]
        assert row.startswith(repr(token["text"])) and likeliest["logprob"] >= second["logprob"]
        assert f"{100 * math.exp(token['logprob']):.1f} %" in row and f"   {likeliest['text']!r} " in row


@pytest.mark.fast
def test_stops_and_bias(generate):
    text = records(generate("--prompt", "go on", "--seed", "1", "--json")[1])[0]["text"]
    [record] = records(generate("--prompt", "go on", "--seed", "1", "--stop", "xyz", "--stop", text[4:6], "--json")[1])
    assert record["text"] == text[: text.index(text[4:6])] and record["finish"] == "stop"
    letter = LETTERS.encode("q")[0]
    assert generate("--prompt", "go on", "--logit-bias", f"{letter}=1000")[1] == "go onqqqqqqqq\n"


@pytest.mark.fast
def test_beams_search_for_one_text(generate, model):
    expected = Engine.from_folder(model, backend="torch").complete("go on", max_new_tokens=8, beams=3)
    assert generate("--prompt", "go on", "--beams", "3")[1] == f"go on{expected}\n"
    [record] = records(generate("--prompt", "go on", "--beams", "3", "--json")[1])
    assert (record["text"], record["finish"], record["new_tokens"]) == (expected, "length", None)
    code, out, err = generate("--beams", "3", "--num-samples", "2")
    assert (code, out) == (2, "") and "--num-samples 2: --beams 3 searches for one text" in err


@pytest.mark.fast
def test_a_smaller_model_guesses_the_same_texts(generate, model, tmp_path, monkeypatch):
    shape = dict(n_layer=1, n_embd=16, vocab_size=LETTERS.vocab_size)
    huggingface.export(randomised(small(**shape), seed=5), LETTERS, tmp_path / "draft")
    (tmp_path / "prompts").write_text('{"prompt": "go on", "max_new_tokens": 90}\n{"prompt": "to", "beams": 2}\n')
    several = "--prompts", tmp_path / "prompts", "--seed", "3", "--json"
    plain = generate(*several)
    read = []
    monkeypatch.setattr(texts, "speculate", lambda *arguments: read.append(arguments[1]) or speculate(*arguments))
    assert generate(*several, "--draft", tmp_path / "draft") == plain and records(plain[1])[0]["slid"]
    assert [decoder.config.n_embd for decoder in read] == [16]
    assert "nowhere: there is no such file" in generate("--prompt", "a", "--draft", tmp_path / "nowhere")[2]


@pytest.mark.fast
def test_a_text_keeps_to_a_pattern_or_a_schema(generate, tmp_path):
    pytest.importorskip("llguidance")
    [record] = records(generate("--prompt", "go on", "--pattern", "[abc]{3}", "--json")[1])
    assert re.fullmatch("[abc]{3}", record["text"]) and record["finish"] == "stop"
    schema = tmp_path / "schema.json"
    for content, message in (
        ("no", "is not JSON"),
        ("[" * 100_000, "is nested too deeply"),
        ("[]", "should hold an object"),
    ):
        schema.write_text(content)
        code, _, err = generate("--json-schema", schema)
        assert code == 2 and f"--json-schema {schema}: {message}" in err and err.count("\n") == 1
    schema.write_text('{"enum": [null]}')
    assert generate("--prompt", "go on", "--json-schema", schema)[1] == "go onnull\n"


@pytest.mark.fast
@pytest.mark.parametrize("temperature", ["0", "1e30", "1e-30"])
def test_any_temperature_writes(generate, temperature):
    code, out, err = generate("--prompt", "go on", "--temperature", temperature)
    assert (code, len(out), err) == (0, len("go on") + 9, "")


@pytest.mark.fast
def test_what_the_model_does_not_see_is_said(generate):
    code, _, err = generate("--prompt", "go on and on and on and on")
    assert code == 0
    assert err == "nanogpt: prompt: of its 26 tokens the model sees the last 16; the first 10 are left out\n"
    _, out, err = generate("--prompt", "go on", "--tokens", "30", "--json")
    assert records(out)[0]["slid"] and err.startswith("nanogpt: the model sees 16 tokens: beyond that")
    assert r"\n is a backslash" in generate("--prompt", "go on", "--stop", r"\n")[2]


@pytest.mark.slow
def test_it_imports_nothing_that_it_does_not_use(tmp_path):
    model = talking_model.write(tmp_path)
    code = (
        "import sys; from nanogpt import cli\n"
        f"code = cli.main(['generate', {str(model)!r}, '--prompt', 'on ', '--tokens', '5', '--device', 'cpu'])\n"
        "unused = {'torch', 'matplotlib', 'prefect', 'transformers', 'requests', 'fastapi'}.intersection(sys.modules)\n"
        "sys.exit(f'imported {unused}' if unused else code)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == "on go go\n"


@pytest.mark.slow
def test_on_a_terminal_it_asks_and_ctrl_c_ends_a_text_alone(tmp_path):
    pytest.importorskip("pyte")
    from tests.flows.test_on_a_terminal import TerminalOf

    model = talking_model.write(tmp_path / "model")
    command = [sys.executable, "-m", "nanogpt.cli", "generate", str(model), "--tokens", "1000000", "--device", "cpu"]
    terminal = TerminalOf(command, 76, 60, XDG_STATE_HOME=str(tmp_path))

    def type_and_see(keys: bytes, pattern: str) -> None:
        terminal.type(keys)
        terminal.wait_for(lambda: re.search(pattern, terminal.picture(), re.MULTILINE) is not None, pattern)

    try:
        type_and_see(b"", r"Ctrl-D leaves\.\n\n>$")
        type_and_see(b"let us\r", r"^> let us\nlet usgo go go")
        type_and_see(b"\x03", r"\^\n?C.*\n(.*\n)+>$")
        type_and_see(b"\r", r"^>\n+go go go")
        type_and_see(b"\x03", r"^>\n+go go (.*\n)*.*\^\n?C.*\n(.*\n)+>$")
        terminal.type(b"\x04")
        assert terminal.wait() == 0
    finally:
        terminal.close()
