"""A model as an ONNX graph whose attention keeps a cache, built node by node with onnx.helper.

Its nodes are those for which onnxruntime has fused kernels, among them com.microsoft's GroupQueryAttention (keys and
values in a cache, rotary positions, rows of unequal length) and MatMulNBits (int8 weights in blocks of 32).
Source: github.com/microsoft/onnxruntime, docs/ContribOperators.md.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, ValueInfoProto, helper, numpy_helper

from nanogpt.config import ModelConfig
from nanogpt.decoders.parts import Block, Linear, Norm, parts_of
from nanogpt.decoders.protocol import Precision
from nanogpt.faults import UserError
from nanogpt.weights.quantization import BLOCK, quantize
from nanogpt.weights.safe_loading import Array

MICROSOFT = "com.microsoft"
HEAD_WIDTHS = {"learned": 8, "rope": 16}  # GroupQueryAttention takes heads whose width is a multiple of it
OPSET, IR_VERSION = 17, 10
INT8_ZERO = 128  # MatMulNBits stores int8 + 128
INT8_ACTIVATIONS = 4  # its accuracy_level at which a processor's int8 products are used


def build(
    config: ModelConfig, arrays: Mapping[str, Array], precision: Precision = "float32", *, mask: bool = True
) -> ModelProto:
    """The graph of a model from its weights by GPT's names (nanogpt.weights.source.Source.arrays).

    Inputs: input_ids (B, S) int64; position_ids (B, S) int64, of a model with learned positions; for each layer l
    past_key_values.l.key and .value (B, n_kv_head, P, head_dim) float32. And with `mask`, as other programs have it,
    attention_mask (B, P + S) int64, 1 for each token and 0 behind the end of shorter rows; without, what
    GroupQueryAttention takes itself: seqlens_k (B,) int32, each row's tokens in all minus one, total (1,) int32, those
    of the longest, and first (1,) int64, the first of the S positions whose logits are wanted.
    Outputs: logits (B, S, vocab_size), those from `first` on without `mask`; present.l.key and .value.
    Raises UserError for heads whose width GroupQueryAttention does not take.
    """
    multiple = HEAD_WIDTHS[config.position]
    if config.head_width % multiple:
        raise UserError(
            f"model.head_dim {config.head_width}: ONNX's GroupQueryAttention takes, with position {config.position}, "
            f"heads whose width is a multiple of {multiple}"
        )
    return _Builder(config, precision, mask).model(arrays)


class _Builder:
    """Collects nodes and constants. A method that adds nodes returns the name of what they compute."""

    def __init__(self, config: ModelConfig, precision: Precision, mask: bool):
        self.config, self.precision, self.mask = config, precision, mask
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self.inputs: list[ValueInfoProto] = []
        self.outputs: list[ValueInfoProto] = []

    def model(self, arrays: Mapping[str, Array]) -> ModelProto:
        config, parts = self.config, parts_of(self.config, arrays)
        x = self.node("Gather", [self.constant("token_embedding", parts.table), self.input_ids()], "embedded")
        if parts.positions is not None:
            table, places = self.constant("position_embedding", parts.positions), self.places()
            x = self.node("Add", [x, self.node("Gather", [table, places], "positions")], "embedded_positions")
        if parts.rotation is not None:
            self.constant("cos", parts.rotation.cos)
            self.constant("sin", parts.rotation.sin)
        self.lengths()
        added = ""
        for layer, block in enumerate(parts.blocks):
            normed, x = self.norm(x, added, block.attention_norm, f"blocks.{layer}.attention_norm")
            added = self.attention(normed, block, layer)
            normed, x = self.norm(x, added, block.feedforward_norm, f"blocks.{layer}.feedforward_norm")
            added = self.feedforward(normed, block, f"blocks.{layer}.feedforward")
        normed, _ = self.norm(x, added, parts.final_norm, "final_norm")
        if not self.mask:
            ends = self.constant("end", np.array([np.iinfo(np.int64).max]))
            normed = self.node("Slice", [normed, "first", ends, self.constant("axis", np.array([1]))], "wanted")
        if (
            parts.head.weight is parts.table and self.precision == "float32"
        ):  # one table in the file: runtimes fold this
            table = self.node("Transpose", ["token_embedding"], "head")
            self.node("MatMul", [normed, table], "logits")
        else:
            self.linear(normed, parts.head, "logits")
        logits = helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["B", None, config.vocab_size])
        return helper.make_model(
            self.graph(logits),
            opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid(MICROSOFT, 1)],
            ir_version=IR_VERSION,
            producer_name="nanogpt-autopilot",
        )

    def graph(self, logits: ValueInfoProto) -> GraphProto:
        return helper.make_graph(self.nodes, "gpt", self.inputs, [logits, *self.outputs], self.constants)

    def node(
        self, kind: str, inputs: Sequence[str], outputs: str | Sequence[str], domain: str = "", **options: float
    ) -> str:
        names = [outputs] if isinstance(outputs, str) else list(outputs)
        made = helper.make_node(kind, inputs, names, name=names[0], domain=domain)
        made.attribute.extend(helper.make_attribute(option, value) for option, value in options.items())
        self.nodes.append(made)
        return names[0]

    def constant(self, name: str, values: npt.NDArray[np.generic]) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(values), name))
        return name

    def input(self, name: str, kind: int, shape: Sequence[str | int]) -> str:
        self.inputs.append(helper.make_tensor_value_info(name, kind, shape))
        return name

    def input_ids(self) -> str:
        return self.input("input_ids", TensorProto.INT64, ["B", "S"])

    def places(self) -> str:
        return self.input("position_ids", TensorProto.INT64, ["B", "S"])

    def lengths(self) -> None:
        """The inputs seqlens_k and total of all attentions, or the nodes that compute them of a mask."""
        if not self.mask:
            self.input("seqlens_k", TensorProto.INT32, ["B"])
            self.input("total", TensorProto.INT32, [1])
            self.input("first", TensorProto.INT64, [1])
            return
        mask = self.input("attention_mask", TensorProto.INT64, ["B", "T"])
        one = self.constant("one", np.array([1]))
        counts = self.node("ReduceSum", [mask, one], "token_counts", keepdims=0)  # (B,)
        last = self.node("Sub", [counts, one], "last_places")
        self.node("Cast", [last], "seqlens_k", to=TensorProto.INT32)
        width = self.node("Gather", [self.node("Shape", [mask], "mask_shape"), one], "mask_width", axis=0)
        self.node("Cast", [width], "total", to=TensorProto.INT32)

    def norm(self, x: str, added: str, norm: Norm, name: str) -> tuple[str, str]:
        """The norm of x + added, and that sum, in one node; "" adds nothing."""
        kind = "LayerNormalization" if self.config.norm == "layernorm" else "SimplifiedLayerNormalization"
        weights = [self.constant(f"{name}.weight", norm.weight)]
        if norm.bias is not None:
            weights.append(self.constant(f"{name}.bias", norm.bias))
        eps = self.config.norm_eps
        if not added:
            return self.node(kind, [x, *weights], name, epsilon=eps, axis=-1), x
        outputs = [name, "", "", f"{name}.sum"]
        self.node(f"Skip{kind}", [x, added, *weights], outputs, MICROSOFT, epsilon=eps)
        return name, f"{name}.sum"

    def linear(self, x: str, linear: Linear, name: str) -> str:
        rows, columns = linear.weight.shape
        product = f"{name}.product" if linear.bias is not None else name
        if self.precision == "int8":
            blocks = -(-columns // BLOCK)
            quantized = quantize(linear.weight, 8)
            values = np.zeros((rows, blocks * BLOCK), np.int8)
            values[:, :columns] = quantized.values
            stored = (values.astype(np.int16) + INT8_ZERO).astype(np.uint8).reshape(rows, blocks, BLOCK)
            weights = [self.constant(f"{name}.weight", stored), self.constant(f"{name}.scales", quantized.scales)]
            options = dict(K=columns, N=rows, bits=8, block_size=BLOCK, accuracy_level=INT8_ACTIVATIONS)
            self.node("MatMulNBits", [x, *weights], product, MICROSOFT, **options)
        else:
            self.node("MatMul", [x, self.constant(f"{name}.weight", linear.weight.T)], product)
        if linear.bias is None:
            return name
        return self.node("Add", [product, self.constant(f"{name}.bias", linear.bias)], name)

    def attention(self, x: str, block: Block, layer: int) -> str:
        config, name = self.config, f"blocks.{layer}.attention"
        shape: list[str | int] = ["B", config.kv_heads, "P", config.head_width]
        past = [self.input(f"past_key_values.{layer}.{side}", TensorProto.FLOAT, shape) for side in ("key", "value")]
        present = [f"present.{layer}.{side}" for side in ("key", "value")]
        held: list[str | int | None] = ["B", config.kv_heads, "held", config.head_width]
        self.outputs += [helper.make_tensor_value_info(output, TensorProto.FLOAT, held) for output in present]
        inputs = [*self.heads(x, block, name), *past, "seqlens_k", "total"]
        options = dict(num_heads=config.n_head, kv_num_heads=config.kv_heads)
        if config.position == "rope":
            inputs, options["do_rotary"] = [*inputs, "cos", "sin"], 1
        attended = self.node("GroupQueryAttention", inputs, [f"{name}.attended", *present], MICROSOFT, **options)
        return self.linear(attended, block.output, f"{name}.output")

    def heads(self, x: str, block: Block, name: str) -> list[str]:
        """Queries, keys and values (B, S, heads * head_dim) each; without norms in between as one, and twice ""."""
        config, qkv = self.config, self.linear(x, block.qkv, f"{name}.qkv")
        if block.q_norm is None or block.k_norm is None:
            return [qkv, "", ""]
        widths = np.array([config.n_head, config.kv_heads, config.kv_heads]) * config.head_width
        q, k, v = f"{name}.q", f"{name}.k", f"{name}.v"
        self.node("Split", [qkv, self.constant(f"{name}.widths", widths)], [q, k, v], axis=-1)
        q = self.norm_heads(q, block.q_norm, config.n_head)
        return [q, self.norm_heads(k, block.k_norm, config.kv_heads), v]

    def norm_heads(self, x: str, weight: Array, heads: int) -> str:
        """x (B, S, heads * head_dim), each head normalised."""
        width = self.config.head_width
        apart = self.node("Reshape", [x, self.constant(f"{x}.apart", np.array([0, 0, heads, width]))], f"{x}.heads")
        scaled = [apart, self.constant(f"{x}_norm.weight", weight)]
        normed = self.node("SimplifiedLayerNormalization", scaled, f"{x}_norm", epsilon=self.config.norm_eps, axis=-1)
        return self.node(
            "Reshape", [normed, self.constant(f"{x}.flat", np.array([0, 0, heads * width]))], f"{x}.normed"
        )

    def feedforward(self, x: str, block: Block, name: str) -> str:
        hidden = self.activate(self.linear(x, block.up, f"{name}.up"), name)
        return self.linear(hidden, block.down, f"{name}.down")

    def activate(self, hidden: str, name: str) -> str:
        activated = f"{name}.activated"
        match self.config.activation:
            case "swiglu":
                widths = self.constant(f"{name}.widths", np.array([self.config.ffn_width] * 2))
                gate, up = f"{name}.gate", f"{name}.ungated"
                self.node("Split", [hidden, widths], [gate, up], axis=-1)
                silu = self.node("QuickGelu", [gate], f"{name}.silu", MICROSOFT, alpha=1.0)
                return self.node("Mul", [silu, up], activated)
            case "gelu":
                return self.node("FastGelu", [hidden], activated, MICROSOFT)
            case "gelu_erf":
                return self.node("Gelu", [hidden], activated, MICROSOFT)
            case "relu2":
                positive = self.node("Relu", [hidden], f"{name}.relu")
                return self.node("Mul", [positive, positive], activated)
