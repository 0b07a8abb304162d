"""A trained model as a folder for llama.cpp and Ollama: one GGUF file, a Modelfile and a card."""

from __future__ import annotations

import shlex
from collections.abc import Collection
from pathlib import Path

from nanogpt import durable, markdown
from nanogpt.config import ModelConfig
from nanogpt.export import gguf_vocabulary, placing
from nanogpt.export.front_matter import CARD
from nanogpt.export.gguf_file import kept_at_f16, write_gguf
from nanogpt.export.target import require_target
from nanogpt.model.gpt import GPT
from nanogpt.tokenizers.byte_pairs import BPETokenizer
from nanogpt.tokenizers.character_bytes import CharBytesTokenizer
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.tokenizers.patterns import QWEN_PATTERN
from nanogpt.tokenizers.tokenizer import Tokenizer
from nanogpt.weights import digests, published_settings, published_shapes

WEIGHTS, MODELFILE = "model.gguf", "Modelfile"
FILES = {WEIGHTS, MODELFILE, CARD, digests.FILE}
MARK = "# Written by nanogpt export. To use it: ollama create NAME -f Modelfile"  # a folder of ours is known by it
LIBRARY = "gguf"


def refusal(config: ModelConfig, tokenizer: Tokenizer) -> str:
    """Why a GGUF file cannot hold this model; empty where it can. Raises UserError for a shape that is not published.

    llama.cpp computes GPT-2's GELU by tanh, whatever the file says.
    """
    published_settings.settings_of(config)
    if config.activation in published_settings.OTHER_ACTIVATIONS:
        return f"model.activation is {config.activation}; llama.cpp computes gelu, by tanh, and swiglu"
    return gguf_vocabulary.refusal(tokenizer, config.vocab_size or 0)


def export(
    model: GPT,
    tokenizer: Tokenizer,
    folder: Path,
    precision: str = "f32",
    card: str | None = None,
    sources: Collection[Path] = (),
    name: str = "model",
) -> list[Path]:
    """Write `model` and `tokenizer` to `folder`, each file whole or absent; returns the files.

    `name` is shown by programs. `card` and `sources` as in huggingface.export(). Raises UserError for a folder that
    holds anything but such an export.
    """
    require_target(folder, FILES, is_export, sources)
    with placing.weights_of(folder, [WEIGHTS]) as temporary:
        durable.write_text(folder / MODELFILE, _modelfile(model.config))  # first: an export that is cut is known by it
        tensors = published_shapes.tensors_of(model)
        write_gguf(temporary / WEIGHTS, model.config, tensors, tokenizer, precision, name)
        if card is not None:
            durable.write_text(folder / CARD, card)
    return sorted(path for path in folder.iterdir() if path.name in FILES)


def is_export(folder: Path) -> bool:
    """Whether `folder` was written here, whole or cut short."""
    try:
        return durable.read_text(folder / MODELFILE).startswith(MARK)
    except (OSError, ValueError):
        return False


def _modelfile(config: ModelConfig) -> str:
    """Ollama's description of the model (https://docs.ollama.com/modelfile).

    Its defaults are for chats: a penalty of 1.1 on what was said before keeps a model of characters from spelling, and
    without num_predict a model that never ends a text writes on and on.
    """
    settings = {
        "num_ctx": config.block_size,
        "num_predict": config.block_size,
        "temperature": 0.8,
        "top_k": 50,
        "top_p": 1.0,
        "repeat_penalty": 1.0,
    }
    lines = [MARK, f"FROM ./{WEIGHTS}", "TEMPLATE {{ .Prompt }}"]
    return "\n".join([*lines, *(f"PARAMETER {name} {value}" for name, value in settings.items())]) + "\n"


def use(config: ModelConfig, tokenizer: Tokenizer, precision: str, prompt: str) -> str:
    """The card's words on how to use it."""
    quoted = shlex.quote(prompt)
    tokens = config.block_size
    sampling = f"-c {tokens} -n {tokens // 2} --temp 0.8 --top-k 50 --repeat-penalty 1.0"
    commands = f"""llama-completion -m {WEIGHTS} -no-cnv -p {quoted} {sampling}
llama-server -m {WEIGHTS} -c {tokens}
ollama create my-model -f {MODELFILE} && ollama run my-model {quoted}"""
    python = f"""import xllamacpp

options = xllamacpp.CommonParams()
options.model.path, options.n_ctx, options.n_parallel = "{WEIGHTS}", {tokens}, 1
server = xllamacpp.Server(options)
written = server.handle_completions({{"prompt": {prompt!r}, "n_predict": {tokens // 2}, "temperature": 0.8}})
print(written["choices"][0]["text"])"""
    return (
        f"`{WEIGHTS}` ({precision}) is for llama.cpp and what is built on it. In this folder:\n\n"
        f"{markdown.block(commands, 'sh')}\n\nor in Python, with llama.cpp as a package (`pip install xllamacpp`):\n\n"
        f"{markdown.block(python, 'python')}\n\n{_notes(config, tokenizer, precision)}"
    )


def _notes(config: ModelConfig, tokenizer: Tokenizer, precision: str) -> str:
    lines = [f"Give it {config.block_size:,} tokens of context at most (`-c`): it was trained on no more."]
    if isinstance(tokenizer, CharTokenizer):
        lines.append("Each character is a token. Characters that it does not know are dropped; nanogpt counts them.")
    if tokenizer.end_of_text is None:
        lines.append(
            "It has no token for the end of a text: set a limit (`-n`). llama.cpp warns of `special_eos_id`; the token "
            "that is named as the end there occurs in no text."
        )
    if kept_at_f16(config, precision):
        widths = ", ".join(kept_at_f16(config, precision))
        lines.append(
            f"{precision} stores rows in blocks of 32: matrices whose rows are of another width ({widths}) are f16."
        )
    lines += _notes_on_ollama(config, tokenizer)
    lines.append("It continues text and was not trained to chat: `-no-cnv`, and no chat template.")
    return "\n".join(f"- {line}" for line in lines)


def _notes_on_ollama(config: ModelConfig, tokenizer: Tokenizer) -> list[str]:
    """Where Ollama's own engine, which runs Qwen3's shape, reads a text otherwise than llama.cpp.

    Source: github.com/ollama/ollama, model/models/qwen3/model.go and model/bytepairencoding.go.
    """
    if not published_settings.is_qwen3(config):
        return []
    lines = []
    if isinstance(tokenizer, CharBytesTokenizer):
        lines.append("Ollama reads byte pairs alone in this shape, and no characters with bytes; llama.cpp reads them.")
    elif isinstance(tokenizer, CharTokenizer):
        if any(len(character.encode("utf-8")) > 2 for character in tokenizer.alphabet):
            lines.append("Ollama drops characters of three and more bytes from a prompt; llama.cpp reads them.")
    elif isinstance(tokenizer, BPETokenizer) and tokenizer.name != "byte" and tokenizer.pattern != QWEN_PATTERN:
        rule = gguf_vocabulary.RULES[tokenizer.pattern]
        lines.append(f"Ollama splits text by Qwen's rule, llama.cpp by {rule}'s, as the model has learned it.")
    if config.position_scale != 1:
        lines.append("Ollama does not read that positions are stretched; llama.cpp does.")
    return lines
