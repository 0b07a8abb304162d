"""The model card: what a model is, what it learned, how good it is and what it cannot do; one text wherever it lies.

Its form is that of https://huggingface.co/docs/hub/model-cards: YAML for programs, then Markdown. It may be shared: no
path of a person's machine is in it. Names and samples are others' words and pass `nanogpt.markdown`.
"""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Iterable

from nanogpt import __version__, markdown
from nanogpt.config import Config, TrainingConfig
from nanogpt.export import front_matter
from nanogpt.export.card_facts import Adapters, LearnedText, ModelCard, Sample
from nanogpt.units import count, duration, number, percent
from nanogpt.weights.published_settings import architecture

LANGUAGES = {"en": "English"}
LICENCES = "https://huggingface.co/docs/hub/repositories-licenses"
OPENING_CHARACTERS = 24  # of a prompt, in the example of use
USE = "## How to use it"
USE_SECTION = re.compile(rf"^{USE}\n.*?(?=^## |\Z)", re.MULTILINE | re.DOTALL)
NOT_RECORDED = "That is not recorded here."
Row = tuple[str, str]


def text(card: ModelCard) -> str:
    """README.md; the same card gives the same bytes."""
    sections = [
        front_matter.written(card),
        f"# {markdown.inline(card.name)}",
        _description(card),
        _headline(card),
        f"{USE}\n\n{_use(card)}",
        f"## What it is\n\n{_shape(card)}",
        f"## What it learned from\n\n{_texts(card)}",
        f"## How it was trained\n\n{_training(card)}",
        f"## How good it is\n\n{_evaluation(card)}",
        _sample(card.sample),
        f"## Limits\n\n{_limits(card)}",
        f"## Licence\n\n{_licence(card)}",
        f"## How it was made\n\n{_how_it_was_made(card)}",
    ]
    return "\n\n".join(filter(None, sections)) + "\n"


def in_another_form(written: str, library: str, use: str) -> str:
    """The card `written` for an export that `library` opens: `use` says how, in place of what it says itself.

    What a person has changed in it otherwise stays.
    """
    section = f"{USE}\n\n{use}\n\n"
    before, found, after = written, USE_SECTION.search(written), ""
    if found:
        before, after = written[: found.start()], written[found.end() :]
    return front_matter.with_library(f"{before.rstrip()}\n\n{section}{after}".rstrip() + "\n", library)


def _description(card: ModelCard) -> str:
    size = f"GPT of {count(card.parameters)} parameters"
    learned = card.text.shown if card.text else "a text that is not recorded here"
    rank = f" of rank {card.adapters.rank}" if card.adapters else ""
    base = card.base.shown if card.base else "its base model"
    if card.kind == "adapters":
        return f"Low-rank adapters{rank} for {base}, a {size}, tuned on {learned}."
    if card.kind == "merged":
        return f"{base}, a {size}, with low-rank adapters{rank} added to its weights; they were tuned on {learned}."
    if card.base:
        how = f" through low-rank adapters{rank}, which are added to its weights" if card.adapters else ""
        return f"{base}, a {size}, tuned on {learned}{how}."
    if card.config is None:
        return f"A {size} that was made elsewhere, in the form that transformers opens."
    return f"A {size} that learned {learned} from scratch."


def _headline(card: ModelCard) -> str:
    found = card.verdict()
    return f"**{markdown.inline(found.headline)}.**" if found else ""


# ---- how to use it


def _use(card: ModelCard) -> str:
    opens_as, prompt = architecture(card.shape), _opening(card)
    if opens_as is None:
        command = f"nanogpt generate FOLDER{_prompt_option(prompt)}"
        return f"Its shape is its own. nanogpt opens it where it was trained:\n\n{markdown.block(command, 'sh')}"
    if card.kind == "adapters":
        return _use_of_adapters(card, prompt)
    python = f"""from transformers import AutoModelForCausalLM, AutoTokenizer

folder = "."  # of config.json and model.safetensors, or the model's name on huggingface.co
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder)  # a {opens_as}
inputs = tokenizer({prompt!r}, return_tensors="pt")
written = model.generate(**inputs, max_length={card.shape.block_size}, do_sample=True, temperature=0.8, top_k=50)
print(tokenizer.decode(written[0]))"""
    command = f"nanogpt generate .{_prompt_option(prompt)} --temperature 0.8"
    return (
        "In the exported folder (`nanogpt export` writes one), with transformers:\n\n"
        f"{markdown.block(python, 'python')}\n\nor with nanogpt:\n\n{markdown.block(command, 'sh')}"
    )


def _use_of_adapters(card: ModelCard, prompt: str) -> str:
    base = markdown.one_line(card.base.name) if card.base else "BASE"
    python = f"""from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

base = {base!r}  # the folder of the exported base model, or its name on huggingface.co
tokenizer = AutoTokenizer.from_pretrained(base)
model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), ".")
inputs = tokenizer({prompt!r}, return_tensors="pt")
written = model.generate(**inputs, max_length={card.shape.block_size}, do_sample=True, temperature=0.8)
print(tokenizer.decode(written[0]))"""
    merge = f"nanogpt merge {shlex.quote(base)} . --out ../merged"
    command = f"{merge}\nnanogpt generate ../merged{_prompt_option(prompt)}"
    return (
        "They fit their base model and no other. In the folder of the adapters, with PEFT:\n\n"
        f"{markdown.block(python, 'python')}\n\nor with nanogpt:\n\n{markdown.block(command, 'sh')}"
    )


def _prompt_option(prompt: str) -> str:
    """A new line is what `nanogpt generate` begins with by itself."""
    return "" if prompt == "\n" else f" --prompt {shlex.quote(prompt)}"


def _opening(card: ModelCard) -> str:
    """A short line of the sample's prompt, or its first words: few enough to leave most of the context free."""
    given = card.sample.prompt if card.sample and card.sample.prompt.strip() else card.opening
    line, *others = markdown.printable(given).strip("\n").split("\n")
    most = max(1, min(OPENING_CHARACTERS, card.shape.block_size // 4))
    if short := [other for other in others if 0 < len(other) <= most and "'" not in other]:
        return short[0]  # the first line of a prompt may begin within a word
    words = line if len(line) <= most else line[: most + 1].rpartition(" ")[0] or line[:most]
    return words or card.opening


# ---- what it is, and what it learned from


def _shape(card: ModelCard) -> str:
    shape, opens_as = card.shape, architecture(card.shape)
    shared = f" ({shape.kv_heads} of keys and values)" if shape.kv_heads != shape.n_head else ""
    rows = [
        ("Parameters", number(card.parameters)),
        ("Shape", f"{shape.n_layer} layers, {shape.n_head} heads{shared}, {shape.n_embd} wide"),
        ("Parts", f"{shape.norm}, {shape.position} positions, {shape.activation}"),
        ("Context", f"{shape.block_size:,} tokens"),
        ("Tokenizer", f"{markdown.inline(card.tokenizer)}, {number(shape.vocab_size)} tokens"),
        ("In transformers", opens_as or "no such model"),
    ]
    return _table(rows)


def _texts(card: ModelCard) -> str:
    parts = [_learned(card.text) if card.text else NOT_RECORDED]
    if card.base and card.base.text:
        parts.append(f"Before that, {card.base.shown} had learned {card.base.text.shown}.")
    elif card.base:
        parts.append(f"What {card.base.shown} had learned before is not recorded here.")
    return "\n\n".join(parts)


def _learned(learned: LearnedText) -> str:
    size = sum(split.bytes for split in learned.splits.values())
    language = LANGUAGES.get(learned.language or "", learned.language)
    words = _sentence_start(learned.shown)
    words += f" (<{learned.address}>)" if learned.address else ""
    words += f": {size:,} bytes after cleaning" if size else ""
    words += f", sha256 {markdown.code(learned.sha256)}." if learned.sha256 else "."
    words += f" Language: {language}." if language else " Its language is not recorded: fill in `language` at the top."
    if not learned.splits:
        return words
    rows = [
        f"| {markdown.inline(name)} | {split.bytes:,} | {split.characters:,} | {split.tokens:,} |"
        for name, split in learned.splits.items()
    ]
    return "\n".join([words, "", "| Split | Bytes | Characters | Tokens |", "|:---|---:|---:|---:|", *rows])


# ---- how it was trained


def _training(card: ModelCard) -> str:
    if card.kind == "merged":
        return "The card of the adapters says how they were trained, that of the base model how it was."
    if card.config is None:
        return NOT_RECORDED
    parts = [_hyper_parameters(card.config, card), _outcome(card)]
    if card.checkpoint != "best":
        parts.append(f"The weights are those of {markdown.code(card.checkpoint)}, not those of the best step.")
    return "\n\n".join(parts)


def _hyper_parameters(config: Config, card: ModelCard) -> str:
    training, context = config.training, card.shape.block_size
    sequences = config.tokens_per_step // context
    rows = [
        *_optimizer(training),
        ("Schedule", _schedule(training)),
        ("Steps", f"at most {training.max_iters:,}"),
        ("Batch", f"{sequences:,} sequences of {context:,} tokens a step: {config.tokens_per_step:,} tokens"),
        ("Context", f"{context:,} tokens"),
        ("Dropout", f"{config.model.dropout:g}"),
        ("Weight decay", f"{training.weight_decay:g}"),
        ("Gradient norm", f"at most {training.grad_clip:g}" if training.grad_clip else "not clipped"),
        ("Precision", card.outcome.precision if card.outcome else "not recorded"),
        ("Seed", str(training.seed)),
        *_extras(training, card.adapters),
    ]
    return _table(rows)


def _optimizer(training: TrainingConfig) -> list[Row]:
    betas = f"betas {training.beta1:g} and {training.beta2:g}"
    if training.optimizer == "adamw" or training.lora_rank:
        return [("Optimizer", f"AdamW, {betas}"), ("Peak learning rate", f"{training.learning_rate:g}")]
    muon = f"Muon (momentum {training.muon_momentum:g}) for hidden matrices"
    rates = {
        "Muon": training.muon_learning_rate,
        "head and vectors": training.learning_rate,
        "embedding": training.embedding_learning_rate,
    }
    return [
        ("Optimizer", f"{muon}, AdamW ({betas}) for the rest"),
        ("Peak learning rates", ", ".join(f"{rate:g} ({what})" for what, rate in rates.items())),
    ]


def _schedule(training: TrainingConfig) -> str:
    warmup, end = f"{training.warmup_iters:,} steps of warm-up", f"{training.min_lr_ratio:g} of the peak"
    if training.schedule == "wsd":
        return f"{warmup}, constant, linear cool-down over the last {percent(training.decay_fraction, 0)} to {end}"
    return f"{warmup}, cosine to {end}" if training.schedule == "cosine" else f"{warmup}, then constant"


def _extras(training: TrainingConfig, adapters: Adapters | None) -> list[Row]:
    """What most trainings do without."""
    rows = []
    if adapters:
        rows.append(("Adapters", f"rank {adapters.rank}, alpha {adapters.alpha:g}; all other weights stayed"))
    if training.weight_average:
        rows.append(("Average of the weights", f"decay {training.weight_average:g} a step"))
    if training.initial_batch:
        rows.append(("Batch at first", f"{training.initial_batch:,} sequences, doubled when the loss stops falling"))
    if training.initial_block_size:
        share = f"{percent(training.curriculum_fraction, 0)} of the steps"
        rows.append(("Context at first", f"{training.initial_block_size:,} tokens, growing over {share}"))
    if training.early_stopping_patience:
        rows.append(("Early stopping", f"after {training.early_stopping_patience} evaluations without a better loss"))
    return rows


def _outcome(card: ModelCard) -> str:
    outcome = card.outcome
    if outcome is None:
        return "Its training has not finished; these are its best weights so far."
    average = ", of the average of the weights" if outcome.best_is_average else ""
    rows = [
        ("Ended", f"after {outcome.step:,} steps ({markdown.inline(outcome.why)})"),
        ("Tokens seen", f"{outcome.tokens:,}, {outcome.tokens / outcome.parameters:,.1f} for each parameter"),
        ("Time", f"{duration(outcome.seconds)} on {markdown.inline(outcome.device)}"),
        ("Best validation loss", f"{number(outcome.best_val_loss, 4)} at step {outcome.best_step:,}{average}"),
        ("Last validation loss", number(outcome.final_val_loss, 4)),
    ]
    return _table(rows)


# ---- how good it is


def _evaluation(card: ModelCard) -> str:
    if card.evaluation is None:
        return " ".join(filter(None, [_validation(card), "It was not evaluated on a test split."]))
    splits = {"validation": card.evaluation.val, "test": card.evaluation.test}
    rows = [
        f"| {name} | {number(found.loss, 4)} | {number(found.perplexity, 2)} | {number(found.bits_per_byte, 3)} |"
        for name, found in splits.items()
    ]
    note = (
        "Each split whole, in windows that do not overlap. The loss is in nats per token; bits per byte do not depend "
    )
    note += "on the tokenizer."
    figures = "\n".join(["| Split | Loss | Perplexity | Bits per byte |", "|:---|---:|---:|---:|", *rows])
    return "\n\n".join([figures, note, _baselines(card, card.evaluation.test.bits_per_byte)])


def _baselines(card: ModelCard, ours: float) -> str:
    if not card.baselines:
        return "It was not compared with simple models."
    named = {markdown.inline(name): bits for name, bits in card.baselines.items()}
    rows = [f"| {name} | {number(bits, 3)} |" for name, bits in named.items()]
    rows.append(f"| **this model** | **{number(ours, 3)}** |")
    better = [name for name, bits in named.items() if not ours < bits]  # NaN is no better than anything
    verdict = f"It is no better than: {', '.join(better)}." if better else "It is better than all of these."
    return "\n".join(["| On the test split | Bits per byte |", "|:---|---:|", *rows, "", verdict])


def _validation(card: ModelCard) -> str:
    """What the trainer measured."""
    loss = card.outcome.best_val_loss if card.outcome else None
    if loss is None:
        return ""
    split = card.text.splits.get("val") if card.text else None
    words = f"On the validation split, which chose the weights: loss {loss:.4f} nats per token, "
    words += f"perplexity {number(math.exp(min(loss, 700.0)), 2)}"
    if split and split.bytes:
        words += f", {loss / math.log(2) * split.tokens / split.bytes:.3f} bits per byte"
    return f"{words}."


def _sample(sample: Sample | None) -> str:
    if sample is None:
        return ""
    when = f", at step {sample.step:,} of its training" if sample.step is not None else ""
    written = markdown.block(sample.prompt + sample.text)
    return f"## A sample\n\nAt temperature {sample.temperature:g}{when}:\n\n{written}"


# ---- what it cannot do, what it may be used for, where it comes from


def _limits(card: ModelCard) -> str:
    found = card.verdict()
    lines = [f"{_sentence_start(markdown.inline(found.headline))}."] if found and found.level != "learned" else []
    lines += [
        "It continues text in the manner of what it learned from. It knows no facts, follows no instructions and "
        "should decide nothing.",
        f"It sees {card.shape.block_size:,} tokens at a time; what came before them is forgotten.",
        "It may repeat passages of its text word for word, private ones too.",
        "What is wrong, biased or hurtful in its text is so in what it writes; nothing was filtered out.",
    ]
    if card.tokenizer == "char":
        lines.append("It knows only the characters of its vocabulary; all others are the same to it.")
    return _bullets(lines)


def _licence(card: ModelCard) -> str:
    learned = [card.text, card.base.text if card.base else None]
    lines = list(dict.fromkeys(_licence_of(found) for found in learned if found))
    if card.text is None:
        lines.append("Its text and the licence of that text are not recorded here: find out before you share it.")
    lines.append(
        "The licence of the weights is for the one who publishes them to choose, as far as the texts allow. Fill it in "
        f"at the top, in place of `license: unknown` (<{LICENCES}>)."
    )
    return _bullets(lines)


def _licence_of(learned: LearnedText) -> str:
    shown = _sentence_start(learned.shown)
    if learned.licence:
        return f"{shown}: {markdown.inline(learned.licence)}."
    return (
        f"{shown}: its licence is not recorded. The owner of the text decides what may be shared of what was learned "
        "from it; fill in here what they allow."
    )


def _how_it_was_made(card: ModelCard) -> str:
    made = f"With nanogpt-autopilot {__version__}"
    if card.command:
        return f"{made}. To make it again, in a checkout of that version:\n\n{markdown.block(card.command, 'sh')}"
    if card.kind == "merged":
        return f"{made}: `nanogpt merge`, of the base model and the adapters."
    if card.config is None:
        return f"{made}: `nanogpt export`, of a model that was made elsewhere."
    command = f"nanogpt train CONFIG.yaml --data DATA --folder MODEL{' --init BASE' if card.base else ''}"
    return f"{made}, with the settings above:\n\n{markdown.block(command, 'sh')}"


def _sentence_start(words: str) -> str:
    return words[:1].upper() + words[1:]


def _table(rows: Iterable[Row]) -> str:
    return "\n".join(["| | |", "|:---|:---|", *(f"| {name} | {value} |" for name, value in rows)])


def _bullets(lines: Iterable[str]) -> str:
    return "\n".join(f"- {line}" for line in lines)
