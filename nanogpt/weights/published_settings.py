"""config.json of the two published shapes, GPT-2's and Qwen3's, to and from our own configuration; without torch."""

from typing import Any

from nanogpt.config import ModelConfig
from nanogpt.faults import UserError

# The parts by which the two are known; everything else of a configuration is a number in them.
GPT2_SHAPE = dict(norm="layernorm", position="learned", qk_norm=False)
QWEN3_SHAPE = dict(norm="rmsnorm", position="rope", qk_norm=True, activation="swiglu", bias=False)
OTHER_ACTIVATIONS = ("gelu_erf", "relu2")  # which llama.cpp and mlx-lm read, and compute as GELU by tanh
GPT2_ACTIVATIONS = {"gelu": "gelu_new", "gelu_erf": "gelu", "relu2": "relu2"}


def settings_of(config: ModelConfig) -> dict[str, Any]:
    """config.json for transformers. Raises UserError when the options fit neither shape."""
    common = dict(
        vocab_size=config.vocab_size,
        tie_word_embeddings=is_tied(config),
        torch_dtype="float32",
        bos_token_id=None,
        eos_token_id=None,
        initializer_range=0.02,
    )
    if is_qwen3(config):
        return common | dict(
            model_type="qwen3",
            architectures=["Qwen3ForCausalLM"],
            hidden_size=config.n_embd,
            intermediate_size=config.ffn_width,
            num_hidden_layers=config.n_layer,
            num_attention_heads=config.n_head,
            num_key_value_heads=config.kv_heads,
            head_dim=config.head_width,
            hidden_act="silu",
            max_position_embeddings=config.block_size,
            rms_norm_eps=config.norm_eps,
            attention_bias=False,
            attention_dropout=0.0,
            use_sliding_window=False,
            **_rope_settings(config),
        )
    plain_heads = config.kv_heads == config.n_head and config.head_width * config.n_head == config.n_embd
    if _fits(config, GPT2_SHAPE) and config.activation in GPT2_ACTIVATIONS and plain_heads:
        return common | dict(
            model_type="gpt2",
            architectures=["GPT2LMHeadModel"],
            n_embd=config.n_embd,
            n_layer=config.n_layer,
            n_head=config.n_head,
            n_inner=config.ffn_width,
            n_positions=config.block_size,
            n_ctx=config.block_size,
            activation_function=GPT2_ACTIVATIONS[config.activation],
            layer_norm_epsilon=config.norm_eps,
            embd_pdrop=config.dropout,
            attn_pdrop=0.0,
            resid_pdrop=config.dropout,
        )
    raise UserError(
        f"model: its options fit neither published shape: {_misfit(config)}; export needs preset gpt2 or modern with "
        "their own norm, position, qk_norm and activation"
    )


def _misfit(config: ModelConfig) -> str:
    """The options that part `config` from the shape that is nearest to it."""
    nearest, shape = ("Qwen3", QWEN3_SHAPE) if config.position == "rope" else ("GPT-2", GPT2_SHAPE)
    options = {key: (getattr(config, key), value) for key, value in shape.items()}
    if nearest == "GPT-2":
        if config.activation not in GPT2_ACTIVATIONS:
            options["activation"] = config.activation, " or ".join(GPT2_ACTIVATIONS)
        options["n_kv_head"] = config.kv_heads, config.n_head
        if config.head_width * config.n_head != config.n_embd:
            options["head_dim"] = config.head_width, "n_embd / n_head"
    words = [f"{key} is {found}, {nearest} has {theirs}" for key, (found, theirs) in options.items() if found != theirs]
    return ", ".join(words)


def _rope_settings(config: ModelConfig) -> dict[str, Any]:
    """The rotary positions, as transformers 5 reads them and (rope_theta, rope_scaling) as those before it."""
    theta = {"rope_theta": config.rope_theta}
    if config.position_scale == 1:
        return {**theta, "rope_parameters": {"rope_type": "default", **theta}}
    scaling = {"type": "linear", "rope_type": "linear", "factor": config.position_scale}  # Ollama reads the older name
    return {**theta, "rope_scaling": scaling, "rope_parameters": {**scaling, **theta}}


def values_from(settings: dict[str, Any]) -> dict[str, Any]:
    """ModelConfig's values from config.json of a GPT-2 or Qwen3. Raises KeyError, TypeError or ValueError."""
    kind = settings["model_type"]
    if kind == "qwen3":
        if settings.get("use_sliding_window") or settings.get("attention_bias"):
            raise ValueError("sliding windows and attention biases are not supported")
        if settings.get("hidden_act", "silu") != "silu":
            raise ValueError(f"hidden_act {settings['hidden_act']} is not supported")
        rope = settings.get("rope_parameters") or settings.get("rope_scaling") or {}
        rope_type = rope.get("rope_type", rope.get("type", "default"))
        if rope_type not in ("default", "linear"):
            raise ValueError(f"rope type {rope_type} is not supported")
        return dict(
            preset="modern",
            embedding_norm=False,
            vocab_size=settings["vocab_size"],
            tie_weights=settings.get("tie_word_embeddings", False),
            n_layer=settings["num_hidden_layers"],
            n_head=settings["num_attention_heads"],
            n_kv_head=settings["num_key_value_heads"],
            n_embd=settings["hidden_size"],
            head_dim=settings.get("head_dim", settings["hidden_size"] // settings["num_attention_heads"]),
            ffn_dim=settings["intermediate_size"],
            block_size=settings["max_position_embeddings"],
            norm_eps=settings["rms_norm_eps"],
            rope_theta=settings.get("rope_theta") or rope["rope_theta"],
            position_scale=rope["factor"] if rope_type == "linear" else 1.0,
        )
    if kind == "gpt2":
        if settings.get("scale_attn_by_inverse_layer_idx") or not settings.get("scale_attn_weights", True):
            raise ValueError("attention scaled otherwise than by its width is not supported")
        activations = {theirs: ours for ours, theirs in GPT2_ACTIVATIONS.items()}
        return dict(
            preset="gpt2",
            vocab_size=settings["vocab_size"],
            tie_weights=settings.get("tie_word_embeddings", True),
            n_layer=settings["n_layer"],
            n_head=settings["n_head"],
            n_embd=settings["n_embd"],
            ffn_dim=settings.get("n_inner") or 4 * settings["n_embd"],
            block_size=settings["n_positions"],
            activation=activations[settings.get("activation_function", "gelu_new")],
            norm_eps=settings.get("layer_norm_epsilon", 1e-5),
        )
    raise ValueError(f'model_type "{kind}", allowed are gpt2 and qwen3')


def architecture(config: ModelConfig) -> str | None:
    """The class of transformers that opens such a model; None where its options fit neither shape."""
    try:
        name: str = settings_of(config)["architectures"][0]
    except UserError:
        return None
    return name


def is_qwen3(config: ModelConfig) -> bool:
    """Whether these options are Qwen3's shape."""
    return _fits(config, QWEN3_SHAPE)


def _fits(config: ModelConfig, shape: dict[str, Any]) -> bool:
    return all(getattr(config, key) == value for key, value in shape.items())


def is_tied(config: ModelConfig) -> bool:
    """Whether the published head shares the table of tokens."""
    return config.tie_weights and not config.embedding_norm  # a folded norm parts the table from the head
