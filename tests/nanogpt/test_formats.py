"""Each format, opened by the program that it is for: the same ids, logits and greedy text as here."""

import importlib.util
import json
import os
import shlex
import shutil
import signal
import subprocess
import urllib.request
from dataclasses import dataclass
from itertools import product
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tokenizers
import torch
from markdown_it import MarkdownIt
from safetensors.torch import load_file, save_file

from nanogpt import cli, durable
from nanogpt.export import formats, onnx_folder
from nanogpt.export.formats import FORMATS, write_model
from nanogpt.faults import CorruptFileError, UserError
from nanogpt.model.gpt import GPT
from nanogpt.tokenizers.byte_pairs import BPETokenizer
from nanogpt.tokenizers.character_bytes import CharBytesTokenizer
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.patterns import CL100K_PATTERN, O200K_PATTERN
from nanogpt.tokenizers.published import gpt2_tokenizer
from nanogpt.tokenizers.tokenizer import END_OF_TEXT, Tokenizer
from nanogpt.weights import digests
from nanogpt.weights.folders import open_folder
from tests.conftest import CHECKOUT
from tests.nanogpt.model_case import randomised, small
from tests.nanogpt.trained_case import train_into

# Characters of one to four bytes, some of which begin alike; id 11 of this alphabet, llama.cpp's usual end, is ";".
TEXT = "\n !'(),-.1:;?A“the cat’s ‘café’ — naïve, über; 🙂🙃 sat on the mat. Привет!\n" * 4
INSIDE = "\nthe cat’s ‘café’ — naïve; 🙃\n"
OUTSIDE = "the %cat@ → 日本 “sat”"
CONTEXT = 64
NEW = 12  # tokens


@dataclass(frozen=True)
class Case:
    """A tiny model of one vocabulary, with its exports in `home`, written when first asked for."""

    model: GPT
    tokenizer: Tokenizer
    home: Path

    def folder(self, name: str, precision: str | None = None) -> Path:
        folder = self.home / f"{name}-{precision}"
        if not folder.exists():
            write_model(self.model, self.tokenizer, FORMATS[name], folder, "# A model\n", precision)
        return folder

    def ids(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).tolist()

    @torch.no_grad()
    def log_probabilities(self, ids: list[int]) -> np.ndarray:
        """(T, vocab_size)"""
        return torch.log_softmax(self.model(torch.tensor([ids]))[0][0], -1).numpy()

    def greedy(self, text: str) -> str:
        ids = self.ids(text)
        begin = len(ids)
        for _ in range(NEW):
            ids.append(int(self.log_probabilities(ids)[-1].argmax()))
        return self.tokenizer.decode(ids[begin:])


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("formats")


@pytest.fixture(scope="module")
def characters(home) -> Case:
    tokenizer = CharTokenizer(TEXT)
    assert tokenizer.alphabet[11] == ";"
    shape = small(
        "modern", n_head=2, n_kv_head=1, position_scale=2.0, block_size=CONTEXT, vocab_size=tokenizer.vocab_size
    )
    return Case(randomised(shape), tokenizer, home / "characters")


@pytest.fixture(scope="module")
def pairs(home) -> Case:
    tokenizer = BPETokenizer.train(TEXT, 300)
    shape = small("modern", tie_weights=True, embedding_norm=False, head_dim=16, block_size=CONTEXT,
                  vocab_size=tokenizer.vocab_size + 4)  # fmt: skip
    return Case(randomised(shape), tokenizer, home / "pairs")


@pytest.fixture(scope="module")
def gpt2(home, shared_data) -> Case:
    tokenizer = gpt2_tokenizer(home, [str(shared_data)])
    shape = small("gpt2", block_size=CONTEXT, vocab_size=tokenizer.vocab_size)
    return Case(randomised(shape), tokenizer, home / "gpt2")


@pytest.fixture(params=["characters", "pairs", "gpt2"])
def case(request) -> Case:
    return request.getfixturevalue(request.param)


@pytest.fixture(params=["characters", "pairs"])
def quick_case(request) -> Case:
    """GPT-2's 50,257 tokens take a second each time."""
    return request.getfixturevalue(request.param)


def each_with(*precisions: str) -> list[tuple[str, str]]:
    """Each vocabulary with each precision, GPT-2's with the first alone: it takes the same code, and longer."""
    return [("gpt2", precisions[0]), *product(("characters", "pairs"), precisions)]


def close(found, expected, tolerance: float = 1e-4) -> None:
    np.testing.assert_allclose(np.asarray(found), expected, atol=tolerance, rtol=tolerance)


# ---- transformers


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers")


def test_transformers(case, transformers):
    folder = case.folder("hf")
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(folder)
    assert tokenizer.model_max_length == CONTEXT and tokenizer.chat_template is None
    for text in (INSIDE, OUTSIDE):
        inputs = tokenizer(text, return_tensors="pt")
        assert inputs.input_ids[0].tolist() == case.ids(text)
        with torch.no_grad():
            close(torch.log_softmax(model(**inputs).logits[0], -1), case.log_probabilities(case.ids(text)))
        written = model.generate(**inputs, max_new_tokens=NEW, do_sample=False)[0, inputs.input_ids.size(1) :]
        assert case.tokenizer.decode(written.tolist()) == case.greedy(text)


def test_a_batch_in_transformers_changes_no_text(case, transformers):
    """Texts of unequal length, one of which is full of what is padded with where a pad token is chosen carelessly."""
    pipe = transformers.pipeline("text-generation", model=str(case.folder("hf")), device="cpu")
    texts = ["\n\n\n the\n\n", INSIDE, "the"]
    how = dict(do_sample=False, max_new_tokens=NEW, return_full_text=False)
    alone = [pipe([text], **how)[0][0]["generated_text"] for text in texts]
    together = [rows[0]["generated_text"] for rows in pipe(texts, batch_size=3, **how)]
    assert together == alone
    special = case.tokenizer.decode([case.tokenizer.vocab_size - 1])
    assert alone == [case.greedy(text).replace(special, "") for text in texts]  # which it leaves out


# ---- mlx-lm


@pytest.mark.parametrize(("case", "precision"), each_with("f32", "f16"), indirect=["case"])
def test_mlx(case, precision):
    mx, mlx_lm = pytest.importorskip("mlx.core"), pytest.importorskip("mlx_lm")
    model, tokenizer = mlx_lm.load(str(case.folder("mlx", precision)))
    tolerance = 1e-4 if precision == "f32" else 0.05
    for text in (INSIDE, OUTSIDE):
        ids = tokenizer.encode(text)
        assert ids == case.ids(text)
        logits = np.array(model(mx.array([ids])).astype(mx.float32))[0]
        close(torch.log_softmax(torch.from_numpy(logits), -1), case.log_probabilities(ids), tolerance)
    if precision == "f32":
        written = mlx_lm.generate(model, tokenizer, INSIDE, max_tokens=NEW)
        assert written == case.greedy(INSIDE).removeprefix(" ")  # which it leaves out


# ---- llama.cpp


class LlamaServer:
    """llama.cpp's server in this process, exact: a cache of keys and values in float32."""

    def __init__(self, xllamacpp, path: Path):
        options = xllamacpp.CommonParams()
        options.model.path, options.n_ctx, options.n_parallel = str(path), CONTEXT, 1
        options.cpuparams.n_threads, options.warmup, options.fit_params = 1, False, False
        options.cache_type_k = options.cache_type_v = xllamacpp.ggml_type.GGML_TYPE_F32
        options.flash_attn_type = xllamacpp.llama_flash_attn_type.LLAMA_FLASH_ATTN_TYPE_DISABLED
        self.server = xllamacpp.Server(options)

    def ids(self, text: str) -> list[int]:
        address = f"{self.server.listening_address}/tokenize"
        request = urllib.request.Request(address, json.dumps({"content": text}).encode())
        with urllib.request.urlopen(request) as answer:
            return json.load(answer)["tokens"]

    def complete(self, text: str, most_likely: int) -> tuple[str, int, dict[int, float]]:
        """Greedy text, how many tokens it has, and the most likely first ones with their log-probabilities."""
        answer = self.server.handle_completions(
            {"prompt": text, "n_predict": NEW, "temperature": 0.0, "n_probs": most_likely, "cache_prompt": False}
        )
        [choice] = answer["choices"]
        first = choice["logprobs"]["content"][0]["top_logprobs"]
        return choice["text"], answer["usage"]["completion_tokens"], {row["id"]: row["logprob"] for row in first}


@pytest.fixture(scope="module")
def xllamacpp():
    return pytest.importorskip("xllamacpp")


@pytest.mark.parametrize(("case", "precision"), each_with(*FORMATS["gguf"].precisions), indirect=["case"])
def test_llama_cpp(case, precision, xllamacpp):
    llama = LlamaServer(xllamacpp, case.folder("gguf", precision) / "model.gguf")
    unknown = case.tokenizer.vocab_size - 1
    for text in (INSIDE, OUTSIDE, TEXT):
        known = [token for token in case.ids(text) if token != unknown]  # those it drops, as the card says
        assert llama.ids(text) == known
    written, tokens, likely = llama.complete(INSIDE, 5)
    expected = case.log_probabilities(case.ids(INSIDE))[-1]
    tolerance = {"f32": 1e-3, "f16": 0.02, "q8_0": 0.1, "q4_0": 1.5}[precision]
    close(list(likely.values()), expected[list(likely)], tolerance)
    assert tokens == NEW  # none of which ends a text
    if precision == "f32":
        assert written == case.greedy(INSIDE)


@pytest.mark.parametrize("kind", ["char_bytes", "byte", "cl100k_base", "o200k_base"])
def test_llama_cpp_has_the_ids_of_every_kind(kind, pairs, xllamacpp, tmp_path):
    patterns = {"cl100k_base": CL100K_PATTERN, "o200k_base": O200K_PATTERN}
    if kind in patterns:  # their rules, with fewer tokens
        tokenizer = BPETokenizer(pairs.tokenizer._ranks, {END_OF_TEXT: 400}, patterns[kind])
    else:
        tokenizer = BPETokenizer.of_bytes() if kind == "byte" else CharBytesTokenizer(TEXT)
    model = randomised(small("modern", block_size=CONTEXT, vocab_size=tokenizer.vocab_size))
    write_model(model, tokenizer, FORMATS["gguf"], tmp_path, "# A model\n")
    llama = LlamaServer(xllamacpp, tmp_path / "model.gguf")
    for text in (INSIDE, OUTSIDE, TEXT, "École ÉCOLE straßeÜBER ПриветМир don't DON'T 12345 a/b//\n\n  x\t\0\0"):
        assert llama.ids(text) == tokenizer.encode(text).tolist()


# ---- onnxruntime


@pytest.mark.parametrize("precision", FORMATS["onnx"].precisions)
def test_onnxruntime(case, precision):
    folder = case.folder("onnx", precision)
    session = onnxruntime.InferenceSession(folder / "model.onnx", providers=["CPUExecutionProvider"])
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tolerance = 1e-4 if precision == "f32" else 0.1
    for text in (INSIDE, OUTSIDE):
        ids = tokenizer.encode(text).ids
        assert ids == case.ids(text)
        cache = {
            found.name: np.zeros((1, found.shape[1], 0, found.shape[3]), np.float32)
            for found in session.get_inputs() if found.name.startswith("past_key_values")
        }  # fmt: skip
        begin = 0
        for end in (len(ids) - 2, len(ids) - 1, len(ids)):  # the prompt as a whole, then token by token
            inputs = {"input_ids": np.array([ids[begin:end]]), "attention_mask": np.ones((1, end), np.int64)}
            if case.model.config.position == "learned":
                inputs["position_ids"] = np.arange(begin, end)[None]
            logits, *present = session.run(None, inputs | cache)
            cache = dict(zip(cache, present, strict=True))
            found = torch.log_softmax(torch.from_numpy(logits[0]), -1)
            close(found, case.log_probabilities(ids[:end])[begin:], tolerance)
            begin = end


def test_the_numbers_of_a_large_model_lie_next_to_its_graph(characters, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx_folder, "LARGEST_FILE", 1000)
    files = write_model(characters.model, characters.tokenizer, FORMATS["onnx"], tmp_path)
    assert {"model.onnx", "model.onnx.data"} <= {path.name for path in files}
    sums = digests.read(tmp_path)
    assert {name: durable.sha256_file(tmp_path / name) for name in sums} == sums and len(sums) == 2
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    assert session.get_outputs()[0].name == "logits"
    write_model(characters.model, characters.tokenizer, FORMATS["onnx"], tmp_path, precision="int8")


# ---- cards


def run_python_of(card: Path, monkeypatch, capsys) -> str:
    """What the Python in a card prints, run in its folder."""
    monkeypatch.chdir(card.parent)
    fences = [token for token in MarkdownIt().parse(card.read_text(encoding="utf-8")) if token.type == "fence"]
    [python] = [token.content for token in fences if token.info == "python"]
    capsys.readouterr()
    exec(compile(python, "README.md", "exec"), {})
    return capsys.readouterr().out


@pytest.mark.parametrize("name", ["gguf", "onnx", "mlx"])
def test_the_script_in_each_card_continues_a_text(name, quick_case, monkeypatch, capsys):
    needs = {"gguf": "xllamacpp", "mlx": "mlx.core"}
    if name in needs:
        pytest.importorskip(needs[name])
    card = quick_case.folder(name) / "README.md"
    written = (run_python_of(card, monkeypatch, capsys) for _ in range(5))  # drawn: some are blank or end at once
    assert any(len(text.strip()) > 4 for text in written), name


@pytest.mark.parametrize("end", [0, 5, None])
def test_the_onnx_script_stops_at_the_end_of_a_text_if_there_is_one(end):
    tokenizer = CharTokenizer("abcdef")
    tokenizer.end_of_text = end
    script = onnx_folder.use(small(vocab_size=7), tokenizer, "f32", "a")
    assert (f"if token == {end}:" in script) == (end is not None) == ("break" in script)


def test_a_card_says_what_a_format_does_otherwise(characters, tmp_path):
    text = (characters.folder("gguf", "q8_0") / "README.md").read_text()
    assert "do not know" not in text and "are dropped" in text and "no token for the end of a text" in text
    assert "blocks of 32" not in text  # its widths are multiples
    narrow = randomised(small("modern", ffn_dim=40, block_size=CONTEXT, vocab_size=characters.tokenizer.vocab_size))
    write_model(narrow, characters.tokenizer, FORMATS["gguf"], tmp_path, "# A model\n", "q8_0")
    assert "(ffn_dim 40) are f16" in (tmp_path / "README.md").read_text()


# ---- what a format cannot hold


CLOSED = CharTokenizer("abc;", closed=True)


@pytest.mark.parametrize(
    ("options", "refused"),
    [
        (dict(preset="gpt2", n_embd=64, activation="gelu_erf"), {"gguf": "activation is gelu_erf", "mlx": "gelu_erf"}),
        (dict(preset="gpt2", n_embd=64, activation="relu2"), {"gguf": "activation is relu2", "mlx": "relu2"}),
        (dict(preset="gpt2", n_embd=64, tie_weights=False), {"mlx": "tie_weights is false"}),
        (dict(preset="gpt2", n_embd=64, embedding_norm=True), {"mlx": "embedding_norm is true"}),
        (dict(preset="gpt2", n_embd=64, ffn_dim=100), {"mlx": "ffn_dim is 100"}),
        (dict(preset="gpt2", n_embd=64), {}),
        (dict(preset="modern", head_dim=12), {"onnx": "head_dim is 12"}),
        (dict(preset="modern", head_dim=16, qk_norm=False), dict.fromkeys(("hf", "gguf", "mlx"), "qk_norm is False")),
        (dict(preset="modern", head_dim=16), {}),
    ],
    ids=str,
)
def test_what_a_format_cannot_hold_is_refused_by_the_name_of_the_option(options, refused, pairs):
    shape = small(**options, vocab_size=300)
    reasons = formats.refusals(list(FORMATS.values()), shape, pairs.tokenizer)
    assert reasons.keys() == refused.keys()
    for name, words in refused.items():
        assert words in reasons[name]
        with pytest.raises(UserError, match=f"^{name} cannot hold this model: .*formats that can: ") as caught:
            formats.require_fitting([FORMATS[name]], shape, pairs.tokenizer)
        able = str(caught.value).rpartition("can: ")[2]
        assert able == ", ".join(other for other in FORMATS if other not in refused)


def test_vocabularies_that_llama_cpp_would_read_otherwise_are_refused(pairs):
    shape = small("gpt2", vocab_size=4)
    [form] = formats.chosen("gguf")
    assert "no token for the end" in formats.refusals([form], shape, CLOSED)["gguf"]
    assert not formats.refusals([form], small("gpt2", vocab_size=5), CLOSED)  # a row that no character has
    ranks = {bytes([byte]): byte for byte in range(256)}
    digits = BPETokenizer(ranks, {"<|endoftext|>": 256}, pattern=r"\p{N}|\P{N}+")
    assert r"\p{N}|\P{N}+" in formats.refusals([form], small("gpt2", vocab_size=257), digits)["gguf"]


def test_an_alphabet_without_a_spare_token_has_no_padding(tmp_path):
    shape = small("gpt2", vocab_size=CLOSED.vocab_size)
    write_model(randomised(shape), CLOSED, FORMATS["hf"], tmp_path)
    assert "pad_token" not in (tmp_path / "tokenizer_config.json").read_text()
    assert "pad_token_id" not in (tmp_path / "generation_config.json").read_text()


# ---- written, read again, replaced


@pytest.mark.parametrize("precision", FORMATS["hf"].precisions)
def test_what_is_written_opens_here_again(quick_case, precision):
    case = quick_case
    model, tokenizer = open_folder(case.folder("mlx", precision))
    assert tokenizer.digest == case.tokenizer.digest
    tokens, tolerance = torch.tensor([case.ids(INSIDE)]), 1e-5 if precision == "f32" else 0.1
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[0], case.model(tokens)[0], atol=tolerance, rtol=tolerance)


@pytest.mark.parametrize("name", FORMATS)
def test_the_same_bytes_each_time_and_nothing_of_others_is_replaced(name, characters, tmp_path):
    def content() -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    form = FORMATS[name]
    write_model(characters.model, characters.tokenizer, form, tmp_path, "# A model\n", form.precisions[-1])
    first = content()
    assert first.keys() <= form.files and form.is_export(tmp_path)
    write_model(characters.model, characters.tokenizer, form, tmp_path, "# A model\n", form.precisions[-1])
    assert content() == first
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds thesis\.txt"):
        write_model(characters.model, characters.tokenizer, form, tmp_path)
    assert content() == first | {"thesis.txt": b"mine"}


@pytest.mark.parametrize("name", FORMATS)
def test_a_write_that_is_cut_leaves_no_weights_and_can_be_done_again(name, characters, tmp_path, monkeypatch):
    form = FORMATS[name]
    files = write_model(characters.model, characters.tokenizer, form, tmp_path)

    def full(*args):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(digests, "write", full)
        with pytest.raises(OSError, match="No space left"):
            write_model(characters.model, characters.tokenizer, form, tmp_path)
    assert not (tmp_path / form.weights).exists() and not list(tmp_path.glob(".*.tmp"))
    assert write_model(characters.model, characters.tokenizer, form, tmp_path) == files


@pytest.mark.parametrize("name", FORMATS)
def test_what_a_killed_export_had_begun_is_removed(name, characters, tmp_path):
    ended = subprocess.run(["sh", "-c", "echo $$"], capture_output=True, text=True, check=True).stdout.strip()
    theirs = tmp_path / f".weights.{os.getppid()}.tmp"
    for folder in (tmp_path / f".weights.{ended}.tmp", theirs):
        folder.mkdir()
        (folder / "half").write_bytes(b"x")
    (tmp_path / f".README.md.{ended}.tmp").write_text("half")
    write_model(characters.model, characters.tokenizer, FORMATS[name], tmp_path)
    assert list(tmp_path.glob(".*.tmp")) == [theirs]  # of a process that may be writing still


def test_a_full_disk_is_said_where_gguf_writes(characters, tmp_path):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    write_model(characters.model, characters.tokenizer, FORMATS["gguf"], tmp_path)
    written = (tmp_path / "Modelfile").stat()
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, hard))
        with pytest.raises(OSError, match="the disk is full, or takes no file of that size"):
            write_model(characters.model, characters.tokenizer, FORMATS["gguf"], tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, before)
    assert not (tmp_path / "model.gguf").exists() and not list(tmp_path.glob(".*.tmp"))
    assert (tmp_path / "Modelfile").stat().st_ino != written.st_ino


def test_weights_that_rot_are_noticed(characters, tmp_path):
    write_model(characters.model, characters.tokenizer, FORMATS["hf"], tmp_path)
    path = tmp_path / "model.safetensors"
    data = bytearray(path.read_bytes())
    data[-9] ^= 1  # the lowest bit of one number
    path.write_bytes(data)
    with pytest.raises(CorruptFileError, match=r"model\.safetensors: damaged.*SHA256SUMS"):
        open_folder(tmp_path)
    (tmp_path / "SHA256SUMS").unlink()  # an older export, or a change that was meant
    open_folder(tmp_path)


def test_an_export_with_older_names_opens_still(gpt2, tmp_path):
    folder = tmp_path / "older"
    shutil.copytree(gpt2.folder("hf"), folder)
    tensors = load_file(folder / "model.safetensors")
    assert "wte.weight" in tensors
    save_file({f"transformer.{name}": tensor for name, tensor in tensors.items()}, folder / "model.safetensors")
    (folder / "SHA256SUMS").unlink()
    model, _ = open_folder(folder)
    tokens = torch.tensor([gpt2.ids(INSIDE)])
    with torch.no_grad():
        torch.testing.assert_close(model(tokens)[0], gpt2.model(tokens)[0])


def test_a_folder_for_another_program_is_named(characters):
    with pytest.raises(UserError, match=r"is an export for llama\.cpp and Ollama; nanogpt opens"):
        open_folder(characters.folder("gguf"))
    with pytest.raises(UserError, match="is an export for onnxruntime"):
        open_folder(characters.folder("onnx"))


# ---- the command


@pytest.fixture(scope="module")
def trained(home) -> Path:
    return train_into(home / "trained")


def refused_by(capsys, *words: object) -> str:
    capsys.readouterr()
    assert cli.main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.count("\n") == 1
    return err


def test_all_formats_that_can_hold_a_model_are_written_and_the_rest_is_named(trained, tmp_path, capsys):
    assert cli.main(["export", str(trained), "--out", str(tmp_path), "--to", "all", "--precision", "q8_0,bf16"]) == 0
    out, err = capsys.readouterr()
    assert "onnx is left out: model.head_dim is 8" in err
    assert {path.name for path in tmp_path.iterdir()} == {"hf", "gguf", "mlx"}
    for line, ending in zip(out.splitlines(), ("hf (bf16)", "gguf (q8_0)", "mlx (bf16)"), strict=True):
        assert f", {ending} for " in line
    for name in ("hf", "gguf", "mlx"):
        card = (tmp_path / name / "README.md").read_text()
        assert card.startswith("---\n") and "\n# " in card and card.count("## How to use it") == 1
        assert f"library_name: {FORMATS[name].library}" in card and "## Limits" in card
    assert "is an export; choose another folder" in refused_by(
        capsys, "export", trained, "--out", tmp_path / "hf", "--to", "hf,gguf"
    )


def test_one_format_is_the_folder_itself(trained, tmp_path):
    assert cli.main(["export", str(trained), "--out", str(tmp_path / "out"), "--to", "gguf"]) == 0
    assert (tmp_path / "out/model.gguf").is_file()
    files = formats.write(trained, "gguf", tmp_path / "again")  # as a worker calls it
    assert [path.name for path in files] == ["Modelfile", "SHA256SUMS", "model.gguf"]
    assert (tmp_path / "again/model.gguf").read_bytes() == (tmp_path / "out/model.gguf").read_bytes()
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/mine.txt").write_text("mine")
    formats.write(trained, "mlx", tmp_path / "taken", own=True)
    assert not (tmp_path / "taken/mine.txt").exists() and list(tmp_path.glob("taken.*/mine.txt"))


def test_mistakes_are_named(trained, tmp_path, capsys):
    out = tmp_path / "out"
    for words, expected in [
        (["--to", "ggfu"], "format 'ggfu': allowed are hf, gguf, onnx, mlx (did you mean \"gguf\"?)"),
        (["--to", "onnx"], "onnx cannot hold this model: model.head_dim is 8"),
        (["--to", "gguf", "--precision", "int8"], "--precision int8: allowed here are f32, f16, q8_0, q4_0"),
        (["--precision", "f16,bf16"], "f16 and bf16 are both for hf"),
    ]:
        assert expected in refused_by(capsys, "export", trained, "--out", out, *words)
        assert not out.exists()


# ---- docs/formats.md


DOCUMENT = (CHECKOUT / "docs/formats.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return [found.content for found in MarkdownIt().parse(DOCUMENT) if found.type == "fence" and found.info == language]


def test_what_the_document_says_to_type_works(pairs, tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    write_model(pairs.model, pairs.tokenizer, FORMATS["hf"], tmp_path / "checkpoints/default/micro", "# A model\n")
    monkeypatch.chdir(tmp_path)
    commands = [line for block in blocks("console") for line in block.splitlines()]
    for line in commands:
        if line.startswith("nanogpt export"):
            assert cli.main(shlex.split(line)[1:]) == 0, line
    assert len(list(tmp_path.glob("exports/forms/*"))) == len(FORMATS)
    [check] = [line for line in commands if line.startswith("sha256sum")]
    for folder in (path.parent for path in tmp_path.rglob("SHA256SUMS")):
        if shutil.which("sha256sum"):
            subprocess.run(shlex.split(check), cwd=folder, check=True, capture_output=True)
    for python in blocks("python"):
        if "mlx_lm" in python and not (importlib.util.find_spec("mlx") and importlib.util.find_spec("mlx.core")):
            continue
        capsys.readouterr()
        exec(compile(python, "formats.md", "exec"), {})
        assert len(capsys.readouterr().out) > 20
    for line in "".join(blocks("sh")).splitlines():  # tools that are not here: the files that they are given are
        assert all((tmp_path / word).is_file() for word in shlex.split(line) if word.startswith("exports/")), line


def test_the_documents_tables_are_those_of_the_code():
    for name, form in FORMATS.items():
        [row] = [line for line in DOCUMENT.splitlines() if line.startswith(f"| `{name}` |")]
        assert row.split("|")[3].strip() == ", ".join(form.precisions)
