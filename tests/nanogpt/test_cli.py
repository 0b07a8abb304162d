"""The command and the examples as a person runs them."""

import io
import os
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

import nanogpt
from nanogpt import cli
from nanogpt.config import Config, DataConfig, save_config
from nanogpt.corpus import preparation, tokenising
from nanogpt.data import shards
from nanogpt.export import huggingface
from nanogpt.model.gpt import GPT
from nanogpt.tokenizers.loading import load_tokenizer
from nanogpt.weights import checkpoint, folders
from tests.nanogpt.model_case import small

CHECKOUT = Path(__file__).parents[2]
EXAMPLES = sorted((CHECKOUT / "examples").glob("*.py"))
TEXT = "ROMEO:\nWhat say you to the moon?\n\nJULIET:\nIt is late, my lord, and the moon is asleep.\n\n"


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    source = folder / "play.txt"
    source.write_text(TEXT * 40, encoding="utf-8")
    preparation.prepare([source], folder / "text", DataConfig())
    tokenising.tokenise(folder / "text", "char", folder / "char", DataConfig())
    return folder / "char"


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    tokenizer = load_tokenizer(data)
    model = GPT(small(vocab_size=tokenizer.vocab_size))
    save_config(Config(model=model.config), folder / "config.yaml")
    tokenizer.save(folder)
    checkpoint.save(folder / "best", model, step=1, facts={})
    return folder


@pytest.fixture(scope="module")
def exported(trained, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("export")
    huggingface.export_trained(trained, folder)
    return folder


@pytest.fixture(autouse=True)
def nothing_is_typed(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))


@pytest.mark.fast
def test_generate_writes_the_same_from_training_folder_and_export(trained, exported, capsys):
    options = ["--prompt", "ROMEO:", "--tokens", "30", "--seed", "1", "--device", "cpu"]
    assert cli.main(["generate", str(trained), *options]) == 0
    written = capsys.readouterr().out
    assert written.startswith("ROMEO:")
    assert len(written) == len("ROMEO:") + 31
    assert cli.main(["generate", str(exported), *options]) == 0
    assert capsys.readouterr().out == written


@pytest.mark.fast
def test_eval_covers_the_split(exported, data, capsys):
    assert cli.main(["eval", str(exported), "--data", str(data), "--window", "8", "--device", "cpu"]) == 0
    output = capsys.readouterr().out
    predicted = len(shards.open_split(data, "test").tokens) - 1
    assert f"test: {predicted:,} tokens, windows of 8" in output
    assert "bits per byte" in output


@pytest.mark.fast
@pytest.mark.parametrize(
    "arguments, message",
    [
        (["generate", "absent"], "absent: there is no such file or folder"),
        (["generate", "MODEL", "--temperature", "-1"], "temperature: found -1.0"),
        (["eval", "MODEL", "--data", "absent"], "absent: there is no such folder"),
        (["eval", "MODEL", "--data", "DATA", "--window", "17"], "--window 17: the model sees at most 16 tokens"),
        (["eval", "MODEL", "--data", "MODEL"], "is not a data folder (it has no manifest.json)\n"),
        (["eval", "MODEL", "--data", "ABOVE"], "is not a data folder (it has no manifest.json); DATA would do\n"),
        (["generate", "MODEL", "--prompt", "a\udcff"], "prompt: its character 2 is not text in UTF-8"),
        (["generate", "MODEL", "--seed", "99999999999999999999"], "seed: found 99999999999999999999"),
        (["generate", "MODEL", "--top-k", "0"], "top_k: found 0"),
        (["generate", "~nobody-of-that-name/m"], "~nobody-of-that-name/m: there is no such file or folder"),
        (["generate", "a\x1b[31m\nb"], "a\\x1b[31m b: there is no such file or folder"),
        (["watch", "a\x1b[31m\nb"], "a\\x1b[31m b: there is no such folder"),
    ],
)
def test_a_mistake_is_one_line_and_code_2(arguments, message, exported, data, capsys):
    places = {"MODEL": str(exported), "DATA": str(data), "ABOVE": str(data.parent)}
    arguments = [places.get(word, word) for word in arguments]
    assert cli.main([*arguments, *(["--device", "cpu"] if arguments[0] != "watch" else [])]) == 2
    captured = capsys.readouterr()
    assert message in captured.err.replace(str(data), "DATA")
    assert captured.err.count("\n") == 1
    assert captured.out == ""


@pytest.mark.fast
@pytest.mark.parametrize(
    "arguments",
    [["fly"], ["generate"], ["train", "x.yaml", "--data", "d", "--folder", "f", "--micro-batch", "0"],
     ["train", "x.yaml", "--data", "d", "--folder", "f", "--max-seconds", "inf"],
     ["train", "x.yaml", "--data", "d", "--folder", "f", "--init", ""], ["prepare", "", "--out", "d"],
     ["prepare", "embedded", "--out", ""], ["generate", ""]],
)  # fmt: skip
def test_a_wrong_command_line_is_code_2(arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(arguments)
    assert exit.value.code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.fast
@pytest.mark.parametrize(("arguments", "words"), [
    (["chatt", "m"], "nanogpt: argument COMMAND: invalid choice: 'chatt'"),
    (["chatt", "m"], '(did you mean "chat"?); nanogpt --help says more'),
    (["generate", "m", "--promt", "To be"], 'unrecognized arguments: --promt To be (did you mean "--prompt"?); '
                                            "nanogpt generate --help says more"),
    (["generate", "m", "--device", "cdua"], '(did you mean "cuda"?)'),
    (["data", "lsit"], '(did you mean "list"?); nanogpt data --help says more'),
])  # fmt: skip
def test_a_typo_is_answered_with_the_nearest_word(arguments, words, capsys):
    with pytest.raises(SystemExit):
        cli.main(arguments)
    assert words in capsys.readouterr().err


@pytest.mark.fast
def test_a_device_that_is_not_there_is_said(exported, capsys, monkeypatch):
    monkeypatch.setattr("nanogpt.device.available", lambda: ["cpu"])
    assert cli.main(["generate", str(exported), "--tokens", "3", "--device", "mps"]) == 0
    assert "mps is not on this machine; taking cpu" in capsys.readouterr().err


@pytest.mark.fast
def test_data_with_a_flipped_bit_is_refused(exported, data, tmp_path, capsys):
    folder = shutil.copytree(data, tmp_path / "data")
    content = bytearray((folder / "test.bin").read_bytes())
    content[-1] ^= 1
    (folder / "test.bin").write_bytes(content)
    assert cli.main(["eval", str(exported), "--data", str(folder), "--device", "cpu"]) == 2
    assert "test.bin changed after it was written" in capsys.readouterr().err


@pytest.mark.slow
def test_a_reader_that_has_seen_enough_is_no_fault(exported):
    command = [sys.executable, "-m", "nanogpt.cli", "generate", str(exported), "--tokens", "3000", "--device", "cpu"]
    writer = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    writer.stdout.read(5)
    writer.stdout.close()
    assert writer.wait(120) == 0 and writer.stderr.read() == b""


@pytest.mark.fast
def test_help_needs_no_torch():
    code = (
        "import sys; from nanogpt import cli\n"
        "try: cli.main(['generate', '--help'])\n"
        "except SystemExit: pass\n"
        "sys.exit(any(name in sys.modules for name in ('torch', 'numpy', 'pydantic')))"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "--temperature" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("script", EXAMPLES, ids=lambda path: path.stem)
def test_every_example_runs_without_a_terminal(script, exported):
    done = subprocess.run(
        [sys.executable, str(script), str(exported)], cwd=CHECKOUT, input="What say you?\nIt is late.\n",
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stderr == f"{script.name}: loading {exported} ...\n"
    assert len(done.stdout) > 100


@pytest.mark.slow
def test_an_example_names_a_missing_folder(tmp_path):
    done = subprocess.run(
        [sys.executable, str(EXAMPLES[0]), str(tmp_path / "absent")], cwd=CHECKOUT, capture_output=True, text=True,
        timeout=120, env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
    )  # fmt: skip
    assert done.returncode == 2
    assert "there is no such file or folder" in done.stderr
    assert done.stderr.count("\n") == 2  # the first one says that it loads


def run_script(script: str, *arguments, **options) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, str(CHECKOUT / "examples" / script), *map(str, arguments)], cwd=CHECKOUT,
        capture_output=True, text=True, timeout=120, env={**os.environ, "PYTHONPATH": str(CHECKOUT)}, **options,
    )  # fmt: skip


@pytest.mark.slow
def test_examples_take_what_the_readme_prints_and_differ_unless_seeded(exported):
    options = ["--tokens", "40", "--temperature", "1"]
    asked = [run_script("complete.py", exported, "--prompt", "ROMEO:", *options, *more).stdout
             for more in ([], [], ["--seed", "3"], ["--seed", "3"])]  # fmt: skip
    assert all(text.startswith("ROMEO:") and len(text) == 47 for text in asked)
    assert asked[0] != asked[1] and asked[2] == asked[3]
    assert run_script("complete.py", exported, "ROMEO:", *options, "--seed", "3").stdout == asked[2]


@pytest.mark.slow
def test_an_example_refuses_what_the_model_cannot_read(exported):
    done = run_script("complete.py", exported, "--prompt", "ΩΩΩ")
    assert (done.returncode, done.stdout) == (2, "") and "'Ω' (3)" in done.stderr and done.stderr.count("\n") == 2
    assert run_script("complete.py", exported, "--prompt", "ΩΩΩ", "--allow-unknown").returncode == 0


@pytest.mark.fast
def test_a_prompt_with_unknown_characters_is_reported_refused_or_allowed(exported, capsys):
    def generate(prompt, *more):
        code = cli.main(["generate", str(exported), "--prompt", prompt, "--tokens", "3", "--device", "cpu", *more])
        return code, *capsys.readouterr()

    code, out, err = generate("to the mo\u00f6n?")
    assert code == 0 and out.startswith("to the moön?") and "'ö' (1)" in err and err.count("\n") == 1
    code, out, err = generate("ööö")
    assert (code, out) == (2, "") and "--allow-unknown" in err and err.count("\n") == 1
    assert generate("ööö", "--allow-unknown")[0] == 0
    assert "no line end" in generate("to the moon?\\n")[2]


@pytest.mark.fast
def test_control_characters_reach_a_terminal_only_when_asked(exported, capsys, monkeypatch):
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    arguments = ["generate", str(exported), "--prompt", "What say you to the moon?\x0b\u202e", "--tokens", "3"]
    assert cli.main([*arguments, "--device", "cpu", "--allow-unknown"]) == 0
    assert "\\u202e" in capsys.readouterr().out
    assert cli.main([*arguments, "--device", "cpu", "--allow-unknown", "--raw"]) == 0
    assert "\u202e" in capsys.readouterr().out


@pytest.mark.fast
def test_alone_it_says_what_it_can_do_and_every_line_of_it_is_understood(capsys):
    assert cli.main([]) == 0
    lines = capsys.readouterr().out.splitlines()
    commands = [line.split("  ")[1] for line in lines if line.startswith("  nanogpt ")]
    assert len(commands) == 8
    for command in commands:
        assert callable(cli.make_parser().parse_args(shlex.split(command)[1:]).run)


@pytest.mark.fast
def test_the_version_is_the_package_s(capsys):
    with pytest.raises(SystemExit) as exit:
        cli.main(["--version"])
    assert exit.value.code == 0
    assert capsys.readouterr().out == f"nanogpt {nanogpt.__version__}\n"


@pytest.mark.fast
def test_what_only_the_autopilot_uses_is_not_in_the_help(capsys):
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    assert "--parent" not in capsys.readouterr().out


@pytest.mark.fast
def test_weights_that_are_not_finite_are_one_line(trained, exported, data, tmp_path, capsys):
    exported = Path(shutil.copytree(exported, tmp_path / "export"))
    weights = load_file(exported / "model.safetensors")
    next(iter(weights.values())).view(-1)[0] = float("nan")
    save_file(weights, exported / "model.safetensors")
    (exported / "SHA256SUMS").unlink()  # as of another program's
    model, _ = folders.open_folder(trained)
    with torch.no_grad():
        model.final_norm.weight[0] = float("inf")
    again = Path(shutil.copytree(trained, tmp_path / "trained"))
    checkpoint.save(again / "best", model, step=1, facts={})
    for folder in (exported, again):
        for command in (["generate"], ["eval", "--data", str(data)], ["export", "--out", str(tmp_path / "out")]):
            device = [] if command[0] == "export" else ["--device", "cpu"]
            assert cli.main([command[0], str(folder), *command[1:], *device]) == 2
            out, err = capsys.readouterr()
            assert out == "" and "holds NaN or infinity" in err and err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.fast
def test_a_model_that_overflows_is_one_line(trained, data, tmp_path, capsys, monkeypatch):
    model, _ = folders.open_folder(trained)
    with torch.no_grad():
        model.final_norm.weight.fill_(1e38)
        model.head.weight.fill_(1e38)
    folder = Path(shutil.copytree(trained, tmp_path / "trained"))
    checkpoint.save(folder / "best", model, step=1, facts={})
    for command in (["generate", str(folder), "--backend", "torch"], ["eval", str(folder), "--data", str(data)]):
        assert cli.main([*command, "--device", "cpu"]) == 2
        err = capsys.readouterr().err
        assert "NaN" in err and err.count("\n") == 1
    monkeypatch.setattr(sys, "stdin", io.StringIO("moon\nmoon\n"))
    assert cli.main(["chat", str(folder), "--backend", "torch"]) == 2
    out, err = capsys.readouterr()
    assert out.count("ROMEO: ") == 1 and "computes NaN" in err.splitlines()[-1]


@pytest.mark.fast
@pytest.mark.parametrize("place", ["loop", "loop/deeper", "file", "file/deeper", "/proc/deeper", "x" * 5000])
def test_a_folder_that_cannot_be_made_is_one_line(place, trained, data, tmp_path, capsys):
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "file").touch()
    place = str(tmp_path / place)
    for arguments in (
        ["export", str(trained), "--out", place],
        ["prepare", str(CHECKOUT / "README.md"), "--out", place],
        ["train", str(trained / "config.yaml"), "--data", str(data), "--folder", place],
    ):
        assert cli.main(arguments) == 2, arguments
        error = capsys.readouterr().err
        assert error.count("\n") == 1 and "Traceback" not in error


@pytest.mark.fast
def test_a_picture_of_a_form_that_is_none_is_one_line(trained, capsys):
    assert cli.main(["profile", str(trained / "config.yaml"), "--picture", "a.nope"]) == 2
    assert capsys.readouterr().err == "nanogpt: --picture a.nope: should end in .svg or .png\n"


@pytest.mark.fast
def test_an_error_of_the_system_names_the_file_in_words(trained, capsys):
    assert cli.main(["generate", str(trained / "config.yaml" / "x")]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    with_number = cli.main(["train", str(CHECKOUT), "--data", "d", "--folder", "f"])
    assert with_number == 2 and "[Errno" not in capsys.readouterr().err


@pytest.mark.parametrize(("is_caught", "code"), [(False, 130), (True, 0)])
def test_ctrl_c_while_python_runs_text_leaves_the_exit_code_as_it_is(tmp_path, is_caught, code):
    """`nanogpt chat` catches the first one, and ends well later."""
    script = textwrap.dedent(f"""
        import contextlib, sys
        from nanogpt import cli

        def run(arguments):
            with contextlib.suppress(*([KeyboardInterrupt] if {is_caught} else [])):
                exec("import os, signal; os.kill(os.getpid(), signal.SIGINT)\\nfor _ in range(10**9): pass")
            return 0

        cli._greet = run
        sys.exit(cli.main())
    """)
    (tmp_path / "of_a_test.py").write_text(script, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{CHECKOUT}{os.pathsep}{tmp_path}"}
    command = [sys.executable, "-m", "of_a_test"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr.strip()) == (code, "")
