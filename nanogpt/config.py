"""Every setting of a model, its training, its data and its device: YAML plus overrides -> validated objects.

A mistake is one line naming the file, the key, what was found and what is allowed (`UserError`). How YAML itself is
read, and which of its surprises are refused: settings_file.py.
"""

from __future__ import annotations

import codecs
import os
import re
from collections.abc import Iterable, Iterator
from encodings.aliases import aliases
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    FieldSerializationInfo,
    ModelWrapValidatorHandler,
    ValidationError,
    ValidationInfo,
    field_serializer,
    field_validator,
    model_validator,
)

from nanogpt import durable, settings_file
from nanogpt.faults import UserError, nearest
from nanogpt.mistakes import explain, found
from nanogpt.settings_file import read_yaml as read_yaml
from nanogpt.spelling import redacted, spelled

# The two shapes that matter: `gpt2` exchanges weights with GPT-2 and nanoGPT, `modern` is exactly Qwen3's.
PRESETS: dict[str, dict[str, Any]] = {
    "gpt2": dict(
        norm="layernorm", norm_eps=1e-5, position="learned", activation="gelu", qk_norm=False, bias=True,
        tie_weights=True, embedding_norm=False, zero_init=False,
    ),
    "modern": dict(
        norm="rmsnorm", norm_eps=1e-6, position="rope", activation="swiglu", qk_norm=True, bias=False,
        tie_weights=False, embedding_norm=True, zero_init=True,
    ),
}  # fmt: skip


LARGEST_STEP = 1_000_000_000  # tokens; the largest models were trained with a tenth
BAD_STEPS = 3  # in a row, after which a training goes back


def _whole_number(value: Any) -> Any:
    """Text from a command line may hold any notation of a whole number, such as 1e4."""
    if isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return value
        return int(number) if number.is_integer() else value
    return value


Model = TypeVar("Model", bound=BaseModel)
Whole = Annotated[int, BeforeValidator(_whole_number), Field(lt=2**63)]
Positive = Annotated[Whole, Field(ge=1)]
Count = Annotated[Whole, Field(ge=0)]
Share = Annotated[float, Field(ge=0, le=1)]
Rate = Annotated[float, Field(gt=0)]
Peak = Annotated[float, Field(gt=0, le=100)]  # of a learning rate: none that teaches is above 1
Wide = Annotated[Positive, Field(le=1_000_000)]  # numbers in a row: the largest published models have 65,536
Temperature = Annotated[float, Field(ge=0)]
Seed = Count  # what torch's generators take


def _is_reached_by_doubling(last: int, first: int) -> bool:
    times, rest = divmod(last, first)
    return rest == 0 and times > 0 and times & (times - 1) == 0


def _types_in(annotation: Any) -> Iterator[Any]:
    """`annotation` and the types that it is made of: float and NoneType in `float | None`."""
    yield annotation
    for inner in get_args(annotation):
        yield from _types_in(inner)


class Section(BaseModel):
    """A part of the configuration: unknown keys are mistakes, values never change after validation."""

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False, protected_namespaces=())

    @field_validator("*", mode="before")
    @classmethod
    def _no_boolean_for_a_number(cls, value: Any, info: ValidationInfo) -> Any:
        """Python counts True as 1, so `learning_rate: true` would be 1.0."""
        values = value if isinstance(value, list) else [value]
        if any(isinstance(item, bool) for item in values) and info.field_name is not None:
            types = set(_types_in(cls.model_fields[info.field_name].annotation))
            if bool not in types and types & {int, float}:
                raise ValueError(f"found {found(value)}, should be a number")
        return value


class ModelConfig(Section):
    """The shape of the transformer. A preset fills in what is not given."""

    preset: Literal["gpt2", "modern"] = Field(
        "modern", description="defaults of norm to zero_init: gpt2 as GPT-2 and nanoGPT, modern (shown) as Qwen3"
    )
    n_layer: Annotated[Positive, Field(le=10_000)] = Field(6, description="transformer blocks")
    n_head: Wide = Field(6, description="attention heads")
    n_embd: Wide = Field(384, description="width of the residual stream")
    block_size: Annotated[Positive, Field(le=1_000_000_000)] = Field(256, description="longest context, in tokens")
    dropout: float = Field(0.0, ge=0, le=0.99, description="share of activations dropped while training")
    vocab_size: Annotated[Positive, Field(le=100_000_000)] | None = Field(
        None, description="tokens; null until the tokenizer is known"
    )
    n_kv_head: Wide | None = Field(None, description="key/value heads (grouped-query attention); null: n_head")
    head_dim: Wide | None = Field(None, description="width of a head; null: n_embd / n_head")
    ffn_dim: Wide | None = Field(None, description="width of the feed-forward layer; null: by activation")
    norm: Literal["layernorm", "rmsnorm"] = Field("rmsnorm", description="normalisation")
    norm_eps: Rate = Field(1e-6, description="added to the variance")
    position: Literal["learned", "rope"] = Field("rope", description="how positions are encoded")
    rope_theta: Rate = Field(10000.0, description="base wavelength of the rotary embedding")
    position_scale: float = Field(1.0, ge=1, description="rope: positions are divided by it (a stretched context)")
    activation: Literal["gelu", "gelu_erf", "relu2", "swiglu"] = Field(
        "swiglu", description="of the feed-forward layer; gelu: GPT-2's, by tanh; gelu_erf: nanoGPT's, exact"
    )
    qk_norm: bool = Field(True, description="normalise queries and keys in each head")
    bias: bool = Field(False, description="biases in linear layers and LayerNorm")
    tie_weights: bool = Field(False, description="the head shares the embedding's matrix")
    embedding_norm: bool = Field(True, description="weightless RMSNorm after the embedding")
    zero_init: bool = Field(True, description="output projections and untied head start at zero")

    @model_validator(mode="wrap")
    @classmethod
    def _fill_from_preset(cls, values: Any, validated: ModelWrapValidatorHandler[ModelConfig]) -> ModelConfig:
        """model_fields_set holds what was written, not what the preset filled: a source of weights fills the rest."""
        if not isinstance(values, dict):
            return validated(values)
        preset = PRESETS.get(str(values.get("preset", "modern")), {})
        filled = validated({**preset, **values})
        filled.model_fields_set.intersection_update(values)
        return filled

    @model_validator(mode="after")
    def _check_shape(self) -> ModelConfig:
        if self.head_dim is None and self.n_embd % self.n_head:
            raise ValueError(
                f"n_embd {self.n_embd} is not divisible by n_head {self.n_head}; "
                f"the nearest n_embd that is: {self._nearest_multiple()}"
            )
        if self.n_head % self.kv_heads:
            raise ValueError(f"n_head {self.n_head} is not divisible by n_kv_head {self.kv_heads}")
        if self.position == "learned" and self.position_scale != 1:
            raise ValueError(f"position_scale {self.position_scale} is for rotary positions; these are learned")
        if self.position == "rope" and self.head_width % 2:
            raise ValueError(f"rotary positions need an even head width, found {self.head_width}")
        return self

    def _nearest_multiple(self) -> int:
        return max(self.n_head, round(self.n_embd / self.n_head) * self.n_head)

    @property
    def kv_heads(self) -> int:
        return self.n_kv_head or self.n_head

    @property
    def head_width(self) -> int:
        return self.head_dim or self.n_embd // self.n_head

    @property
    def ffn_width(self) -> int:
        """4 n_embd for two matrices; SwiGLU's three matrices take 8/3 n_embd, so that parameters are equal
        (Shazeer 2020, section 3), rounded up to a multiple of 32."""
        if self.ffn_dim is not None:
            return self.ffn_dim
        if self.activation == "swiglu":
            return -(-(8 * self.n_embd // 3) // 32) * 32
        return 4 * self.n_embd


LATER = {"training.muon_interval": 1}  # came when models were trained: while it is so, it stands in no marker


class TrainingConfig(Section):
    """How the weights are found. One step sees batch_size x gradient_accumulation x block_size tokens."""

    batch_size: Positive = Field(12, description="sequences in one forward and backward pass (micro-batch)")
    gradient_accumulation: Positive = Field(1, description="micro-batches in one step")
    max_iters: Positive = Field(5000, description="steps")
    learning_rate: Peak = Field(0.01, description="AdamW's peak; with muon: of the head and the vectors")
    min_lr_ratio: Share = Field(0.05, description="learning rate at the end, as a share of the peak")
    warmup_iters: Count = Field(20, description="steps of linear rise at the start")
    schedule: Literal["cosine", "wsd", "constant"] = Field("wsd", description="shape of the learning rate")
    decay_fraction: Share = Field(0.6, description="wsd: share of the steps in the linear cool-down")
    optimizer: Literal["adamw", "muon"] = Field("muon", description="muon: for hidden matrices, AdamW for the rest")
    weight_decay: float = Field(0.0, ge=0, le=10, description="AdamW and Muon, matrices only")
    beta1: float = Field(0.8, ge=0, lt=1, description="AdamW's first moment")
    beta2: float = Field(0.95, ge=0, lt=1, description="AdamW's second moment")
    grad_clip: float = Field(1.0, ge=0, description="largest gradient norm; 0: no clipping")
    muon_learning_rate: Peak = Field(0.02, description="Muon's peak")
    muon_momentum: float = Field(0.95, ge=0, lt=1, description="Muon's Nesterov momentum")
    muon_interval: Positive = Field(
        1, description="steps from one move of a matrix by Muon to the next, as many times as far"
    )
    embedding_learning_rate: Peak = Field(0.05, description="with muon: AdamW's peak for the embedding")
    weight_average: float = Field(0.0, ge=0, lt=1, description="decay a step of the weights' moving average; 0: none")
    initial_block_size: Positive | None = Field(None, description="curriculum: shorter windows at first; null: none")
    curriculum_fraction: Share = Field(0.3, description="share of the steps until the windows are block_size long")
    initial_batch: Positive | None = Field(
        None, description="sequences in a step at first, doubled whenever the loss stops falling; null: all at once"
    )
    init_from: str | None = Field(
        None, min_length=1, description="a model's folder, a Hugging Face folder or nanoGPT's ckpt.pt; null: scratch"
    )
    lora_rank: Count = Field(0, description="rank of low-rank adapters next to frozen weights; 0: train all weights")
    lora_alpha: Rate = Field(16.0, description="adapters are scaled by lora_alpha / lora_rank")
    eval_interval: Positive = Field(250, description="steps between evaluations on the whole validation split")
    sample_interval: Count = Field(250, description="steps between written samples; 0: none")
    sample_temperatures: Annotated[list[Temperature], Field(min_length=1)] = Field(
        [0.6, 0.8, 1.0], description="one sample each; 0: always the likeliest token"
    )
    log_interval: Positive = Field(10, description="steps between rows of metrics")
    checkpoint_interval: Positive = Field(250, description="steps between checkpoints")
    checkpoint_minutes: Rate = Field(10.0, description="longest time between checkpoints, in minutes")
    keep_checkpoints: Annotated[Whole, Field(ge=2)] = Field(3, description="newest checkpoints kept")
    early_stopping_patience: Count = Field(0, description="evaluations without a better loss; 0: never stop early")
    max_seconds: Rate | None = Field(None, description="training time at which the cool-down has ended; null: no clock")
    seed: Seed = Field(1337, description="of initial weights, dropout and the order of the data")

    @property
    def enough_steps(self) -> int:
        """In which a model learns clearly more than how often each letter occurs.

        Ten times the warm-up: micro, which warms up for 20, reaches 4.04 bits per byte in 25 steps that end with their
        cool-down and 2.93 in 200, on Python's documentation (a unigram: 4.82).
        """
        return max(100, 10 * self.warmup_iters)

    @property
    def matrix_learning_rate(self) -> float:
        """Peak of the hidden matrices', by the step."""
        return self.muon_learning_rate / self.muon_interval if self.optimizer == "muon" else self.learning_rate

    @property
    def sequences_per_step(self) -> int:
        """The effective batch."""
        return self.batch_size * self.gradient_accumulation

    @model_validator(mode="after")
    def _check_schedule(self) -> TrainingConfig:
        if self.warmup_iters >= self.max_iters:
            raise ValueError(f"warmup_iters {self.warmup_iters} must be below max_iters {self.max_iters}")
        return self

    @model_validator(mode="after")
    def _check_beginnings(self) -> TrainingConfig:
        batch = self.sequences_per_step
        if self.initial_batch is not None and not _is_reached_by_doubling(batch, self.initial_batch):
            raise ValueError(f"initial_batch {self.initial_batch} does not become {batch} sequences by doubling")
        if self.lora_rank and self.init_from is None:
            raise ValueError("lora_rank needs init_from: adapters change an existing model")
        return self

    @model_validator(mode="after")
    def _check_way_back(self) -> TrainingConfig:
        """Three bad steps in a row lead back to a checkpoint from before them (training.stability)."""
        if (self.keep_checkpoints - 1) * self.checkpoint_interval < BAD_STEPS - 1:
            raise ValueError(
                f"keep_checkpoints {self.keep_checkpoints} with checkpoint_interval {self.checkpoint_interval}: none "
                f"would be from before {BAD_STEPS} bad steps in a row; keep 3, or save less often"
            )
        return self


# What data.tokenizer names; anything else is a file, or a repository of a hub.
TOKENIZERS = ("auto", "char", "char_bytes", "byte", "bpe", "gpt2", "cl100k_base", "o200k_base")
HUB = "hf:"
# Bytes of a text that goes through memory as one; 30 MB took 530 MiB and 60 MB 998 MiB, and in pieces 70 MB took 497.
SMALL_TEXT = 24_000_000
_HUB_TOKENIZER = re.compile(r"hf:[\w.-]+/[\w.-]+(@[\w./-]+)?")
# Gopher's (Rae et al. 2021, appendix A.1), by what is wrong with a document that breaks one.
QUALITY_RULES = (
    "few_words", "many_words", "word_length", "symbols", "bullets", "ellipses", "no_letters", "few_stop_words",
    "repeated_lines", "repeated_paragraphs", "repeated_phrases",
)  # fmt: skip
Language = Literal["any", "de", "en", "es", "fr", "it", "nl", "pt"]

CLEANING_CHOICES = (  # settings of DataConfig
    "unicode", "min_characters", "max_characters", "near_duplicates", "similarity", "quality", "language", "profanity",
    "profanity_limit", "private_data",
)  # fmt: skip


def token_folder(tokenizer: str) -> str:
    """The name of the folder of ids of a data.tokenizer: its own, or one made of a file's path or a hub's address."""
    if tokenizer in TOKENIZERS:
        return tokenizer
    readable = re.sub(r"[^A-Za-z0-9]+", "-", tokenizer.removesuffix("tokenizer.json")).strip("-")[-40:]
    return f"{readable}-{durable.digest(tokenizer)[:8]}"


WITH_PASSWORDS = "with passwords"  # the context of a dump that stays in this process


class MixedSource(Section):
    """A text in a mixture."""

    source: str = Field(min_length=1, description="as data.source")
    weight: Rate = Field(1.0, description="its share of the samples is its part of the sum of all weights")


class DataConfig(Section):
    """The text to learn from."""

    source: str = Field(
        "tiny_shakespeare", min_length=1, description="a name of the catalogue, a text file, a folder, or embedded"
    )
    tokenizer: str = Field(
        "auto",
        min_length=1,
        description=f"{', '.join(TOKENIZERS)}, a tokenizer.json or hf:OWNER/NAME; auto: characters for small data",
    )
    bpe_vocab_size: Annotated[Whole, Field(ge=257, le=1_000_000)] = Field(1024, description="tokens of a trained BPE")
    chat_tokens: bool = Field(False, description="keep the last ids of a trained BPE for the roles of a chat")
    encoding: str = Field(
        "auto", description="of documents that are not UTF-8, such as cp1252 or gb18030; auto: detected"
    )
    column: str = Field("auto", min_length=1, description="of the text in .jsonl, .csv, .parquet; auto: text, or so")
    repair: bool = Field(False, description="mojibake, such as Ã© for é, by ftfy")
    mirror: str | list[str] | None = Field(
        None, description="folder or URL tried before the public homes of a download; several: a,b or a list"
    )
    mixture: list[MixedSource] = Field(
        [], max_length=100, description="texts by weight, instead of source: [{source: a, weight: 3}, {source: b}]"
    )
    cross_documents: bool = Field(True, description="attend across the end of a document; false: each by itself")
    token_dropout: float = Field(0.0, ge=0, lt=1, description="share of the input tokens replaced by random ones")
    span_corruption: float = Field(
        0.0, ge=0, le=0.5, description="share of the input tokens in spans, 3 long on average, replaced by random ones"
    )
    unicode: Literal["nfc", "nfkc"] = Field(
        "nfc", description="normal form of characters; nfkc: ligatures, full-width letters and the like as plain ones"
    )
    min_characters: Count = Field(0, description="shorter documents are left out")
    max_characters: Positive | None = Field(None, description="longer documents are left out; null: none is too long")
    near_duplicates: Literal["drop", "together", "ignore"] = Field(
        "drop", description="drop: one document of those that are nearly the same stays; together: all, in one split"
    )
    similarity: float = Field(
        0.8, ge=0.5, le=1, description="share of five-word phrases in common that makes near duplicates"
    )
    quality: str | list[str] = Field(
        "any", description=f"gopher: documents that break a rule of Gopher are left out; or some of its rules: "
        f"{', '.join(QUALITY_RULES)}"
    )  # fmt: skip
    language: Language = Field("any", description="documents in other languages are left out, by their commonest words")
    profanity: Literal["ignore", "count", "drop"] = Field(
        "ignore", description="documents with swear words: counted, or left out above profanity_limit"
    )
    profanity_limit: Share = Field(0.001, description="share of swear words among a document's words that may stay")
    private_data: Literal["ignore", "count", "redact", "drop"] = Field(
        "count", description="e-mail addresses, phone and card numbers, IP addresses, keys; drop: whole documents"
    )
    val_fraction: float = Field(0.05, gt=0, lt=0.5, description="share held out to choose by")
    test_fraction: float = Field(0.05, gt=0, lt=0.5, description="share held out to judge by, once")

    @field_validator("source", "tokenizer", mode="before")
    @classmethod
    def _source_as_text(cls, source: Any) -> Any:
        """A file name that is not UTF-8, as sources.own_path understands it."""
        return source if not isinstance(source, str) or source.isascii() or _is_utf8(source) else spelled(source)

    @field_validator("tokenizer")
    @classmethod
    def _check_tokenizer(cls, tokenizer: str) -> str:
        is_file = not tokenizer.startswith(HUB) and ("/" in tokenizer or os.sep in tokenizer or ".json" in tokenizer)
        if tokenizer in TOKENIZERS or is_file or _HUB_TOKENIZER.fullmatch(tokenizer):
            return tokenizer
        raise ValueError(
            f"found {found(tokenizer)}, should be {', '.join(TOKENIZERS)}, the path of a tokenizer.json (with a / in "
            f"it) or hf:OWNER/NAME{nearest(tokenizer, TOKENIZERS)}"
        )

    @field_validator("encoding")
    @classmethod
    def _check_encoding(cls, encoding: str) -> str:
        if encoding == "auto":
            return encoding
        try:
            b"a".decode(encoding, "replace")  # refuses those that are not of texts, such as hex
            return codecs.lookup(encoding).name
        except (LookupError, ValueError):
            known = ["auto", *sorted({*aliases, *aliases.values()})]
            raise ValueError(
                f"found {found(encoding)}, should be auto or an encoding that Python knows{nearest(encoding, known)}"
            ) from None

    @field_validator("mixture")
    @classmethod
    def _check_mixture(cls, mixture: list[MixedSource]) -> list[MixedSource]:
        names = [mixed.source for mixed in mixture]
        if twice := [name for name in names if names.count(name) > 1]:
            raise ValueError(f"found {found(twice[0])} twice, should have each source once")
        return mixture

    @field_validator("quality")
    @classmethod
    def _check_quality(cls, quality: str | list[str]) -> str | list[str]:
        for rule in quality if isinstance(quality, list) else [quality][quality in ("any", "gopher") :]:
            if rule not in QUALITY_RULES:
                allowed = f"any, gopher or some of {', '.join(QUALITY_RULES)}"
                raise ValueError(f"found {found(rule)}, should be {allowed}{nearest(rule, QUALITY_RULES)}")
        return quality

    @property
    def quality_rules(self) -> frozenset[str]:
        """Names of QUALITY_RULES."""
        if isinstance(self.quality, list):
            return frozenset(self.quality)
        return frozenset({"any": (), "gopher": QUALITY_RULES}.get(self.quality, (self.quality,)))

    @field_serializer("mirror")
    def _without_password(self, mirror: str | list[str] | None, info: FieldSerializationInfo) -> Any:
        """Whoever dumps or saves a configuration gets no password; `with_changes` keeps it."""
        if mirror is None or info.context == WITH_PASSWORDS:
            return mirror
        return redacted(mirror) if isinstance(mirror, str) else [redacted(place) for place in mirror]

    @property
    def sources(self) -> list[str]:
        """All texts: those of the mixture, or the only one."""
        return [mixed.source for mixed in self.mixture] or [self.source]

    @property
    def mirrors(self) -> list[str]:
        places = self.mirror.split(",") if isinstance(self.mirror, str) else self.mirror or []
        return [place.strip() for place in places if place.strip()]


class DeviceConfig(Section):
    """Compute device. An unavailable one is reported and replaced."""

    type: Literal["auto", "cpu", "mps", "cuda"] = Field("auto", description="auto: cuda, else mps, else cpu")
    mixed_precision: bool | Literal["auto", "bfloat16", "float16"] = Field(
        "auto", description="half-precision products; true: of the better type; auto: where faster"
    )
    gradient_checkpointing: bool = Field(False, description="compute blocks again in the backward pass: less memory")
    longest_window: Positive | None = Field(
        None, description="tokens in a window at most: less memory, and a context as short; null: model.block_size"
    )
    attention: Literal["auto", "sdpa", "products"] = Field(
        "auto",
        description="by torch's kernel or as written-out products; auto: torch's, on MPS what is faster; "
        "device.kernels has its own",
    )
    newton_schulz: Literal["auto", "float32", "bfloat16", "float16"] = Field(
        "auto", description="precision of Muon's orthogonalisation; auto: what the device multiplies fastest"
    )
    compile: bool = Field(False, description="torch.compile; falls back to eager when the compiler fails")
    threads: Annotated[Positive, Field(le=1024)] | None = Field(
        None, description="CPU threads; null: one a physical core"
    )
    kernels: Literal["auto", "torch"] = Field(
        "auto",
        description="on a CPU: auto: compiled C between the products where it can be built; torch: its operators",
    )


class Config(Section):
    """One model to train, whole."""

    name: str = Field("model", pattern=r"^[a-z0-9][a-z0-9_.-]*$", description="folder name of the model")
    model: ModelConfig = ModelConfig()
    training: TrainingConfig = TrainingConfig()
    data: DataConfig = DataConfig()
    device: DeviceConfig = DeviceConfig()
    tracking: Literal["none", "wandb"] = Field("none", description="wandb: Weights & Biases too, offline without a key")

    @property
    def context(self) -> int:
        """Tokens in the longest window that is trained: model.block_size, unless device.longest_window is shorter."""
        return min(self.model.block_size, self.device.longest_window or self.model.block_size)

    @property
    def tokens_per_step(self) -> int:
        """Tokens that one whole step sees."""
        return self.training.sequences_per_step * self.model.block_size

    def value(self, key: str) -> object:
        """The setting with a dotted key, such as training.max_iters."""
        section, _, name = key.partition(".")
        return getattr(getattr(self, section), name)

    def in_windows(self) -> Config:
        """The same work with sequences of `context` tokens, as many more of them in a step."""
        pieces = self.model.block_size // self.context
        if pieces == 1:
            return self
        training = self.training
        first, batch = training.initial_block_size, training.initial_batch
        return self.with_changes({
            "model.block_size": self.context, "device.longest_window": None,
            "training.initial_block_size": min(first, self.context) if first else None,
            "training.initial_batch": batch * pieces if batch else None,
            "training.gradient_accumulation": training.gradient_accumulation * pieces,
        })  # fmt: skip

    @model_validator(mode="after")
    def _check_step(self) -> Config:
        if self.tokens_per_step > LARGEST_STEP:
            training = self.training
            raise ValueError(
                f"training.batch_size {training.batch_size} x training.gradient_accumulation "
                f"{training.gradient_accumulation} x model.block_size {self.model.block_size} are "
                f"{self.tokens_per_step:,} tokens in a step, should be at most {LARGEST_STEP:,}"
            )
        return self

    @model_validator(mode="after")
    def _check_windows(self) -> Config:
        longest, whole = self.device.longest_window, self.model.block_size
        if longest is not None and longest < whole and not _is_reached_by_doubling(whole, longest):
            raise ValueError(f"device.longest_window {longest} does not become model.block_size {whole} by doubling")
        return self

    @model_validator(mode="after")
    def _check_curriculum(self) -> Config:
        first, last = self.training.initial_block_size, self.model.block_size
        if first is not None and not _is_reached_by_doubling(last, first):
            raise ValueError(f"training.initial_block_size {first} does not become model.block_size {last} by doubling")
        return self

    def with_changes(self, changes: dict[str, Any]) -> Config:
        """A validated copy with dotted keys replaced: {"training.max_iters": 100}. Raises UserError."""
        values = self.model_dump(context=WITH_PASSWORDS)
        for key, value in changes.items():
            set_key(values, key, value)
        return validate(Config, values, self.name)


def load_config(path: Path | str, overrides: Iterable[str] = ()) -> Config:
    """The configuration in a YAML file, with `key=value` overrides on top. Raises UserError."""
    path = Path(path)
    values = read_yaml(path)
    values.setdefault("name", path.stem.lower())
    return validate(Config, values, str(path), apply_overrides(values, overrides))


def save_config(config: Config, path: Path) -> None:
    """Write `config` as YAML that load_config reads back equal, but for passwords."""
    durable.write_text(path, settings_file.as_yaml(config.model_dump()))


def parse_overrides(overrides: Iterable[str]) -> list[tuple[str, Any]]:
    """`training.learning_rate=3e-4` -> ("training.learning_rate", 0.0003), values read as YAML. Raises UserError."""
    pairs = []
    for override in overrides:
        key, equals, text = override.partition("=")
        if not equals or not key.strip():
            raise UserError(f'--set {override}: expected KEY=VALUE, such as "training.learning_rate=3e-4"')
        pairs.append((key.strip(), settings_file.parse(text, f"--set {redacted(override)}")))
    return pairs


def apply_overrides(values: dict[str, Any], overrides: Iterable[str]) -> dict[str, str]:
    """Set each `key=value` in `values`; {key: the words of the command line that set it}. Raises UserError."""
    origins = {}
    for key, value in parse_overrides(overrides):
        origins[key] = f"--set {key}"
        try:
            set_key(values, key, value)
        except UserError as error:
            raise UserError(f"--set {error}") from None
    return origins


def set_key(values: dict[str, Any], dotted: str, value: Any) -> None:
    """Set a dotted key in nested mappings. Raises UserError when the path runs through a plain value."""
    *parents, last = dotted.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise UserError(f'{dotted}: "{parent}" is not a section')
    values[last] = value


def validate(kind: type[Model], values: dict[str, Any], where: str, origins: dict[str, str] | None = None) -> Model:
    """`values` as a `kind`. Raises UserError with the first mistake: where, key, what was found, what is allowed.

    `where` names the file; `origins` the words of the command line for the keys that come from there.
    """
    try:
        return kind.model_validate(values)
    except ValidationError as error:
        key, mistake = explain(kind, error, origins or {})
        raise UserError(f"{_place(where, origins or {}, key)}: {mistake}") from None


def _place(where: str, origins: dict[str, str], key: str) -> str:
    """Where a person finds what is wrong with `key`: the command line, the file, or (a section) both."""
    for origin, words in origins.items():
        if key == origin:
            return words
        if key.startswith(f"{origin}."):
            return f"{words}: {key}"
    within = [words for origin, words in origins.items() if not key or origin.startswith(f"{key}.")]
    return ": ".join(filter(None, [f"{where} with {', '.join(within)}" if within else where, key]))


def _is_utf8(text: str) -> bool:
    """False for names of files whose bytes are not UTF-8: Python keeps those bytes as lone surrogates."""
    try:
        text.encode()
        return True
    except UnicodeEncodeError:
        return False
