"""Each format, opened by the program that it is for: the same ids, logits and greedy text as here."""

import json
import urllib.request
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tokenizers
import torch

from nanogpt import durable
from nanogpt.data.tokenizer import BPETokenizer, CharTokenizer, Tokenizer, gpt2_tokenizer
from nanogpt.export import onnx_folder
from nanogpt.export.formats import FORMATS, write_model
from nanogpt.model.gpt import GPT
from nanogpt.weights import digests
from tests.nanogpt.model_case import randomised, small

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


@pytest.mark.parametrize("precision", ["f32", "f16"])
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
        assert mlx_lm.generate(model, tokenizer, INSIDE, max_tokens=NEW) == case.greedy(INSIDE)


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


@pytest.mark.parametrize("precision", FORMATS["gguf"].precisions)
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
