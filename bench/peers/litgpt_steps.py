"""LitGPT's pretrain, as its command calls it. A step ends when the next batch is asked for.

Its architecture has rotary positions in place of GPT-2's learned ones, and it compiles the model: what that takes is
part of the warm-up.
"""

import tempfile
from pathlib import Path

import torch
from asked import Laps, asked
from litgpt.args import EvalArgs, TrainArgs
from litgpt.config import Config
from litgpt.data import DataModule
from litgpt.pretrain import setup
from torch.utils.data import DataLoader, IterableDataset


class EnoughError(Exception):
    """Every step that was asked for is done."""


class SameBatch(IterableDataset):
    def __iter__(self):
        laps = None
        while True:
            if laps is None:
                laps = Laps(want)
            elif not laps.lap():
                laps.say()
                raise EnoughError
            yield tokens


class MadeUp(DataModule):
    def connect(self, tokenizer=None, batch_size=1, max_seq_length=None, **more):
        """Nothing to connect."""

    def train_dataloader(self):
        return DataLoader(SameBatch(), batch_size=None)

    def val_dataloader(self):
        return DataLoader([tokens], batch_size=None)


want = asked()
tokens = want.tokens()
shape = Config(
    name="gpt2", block_size=want.block_size, vocab_size=want.vocab_size, padded_vocab_size=want.vocab_size,
    n_layer=want.n_layer, n_head=want.n_head, n_embd=want.n_embd, bias=True, parallel_residual=False,
    norm_class_name="LayerNorm", mlp_class_name="GptNeoxMLP", rotary_percentage=1.0,
)  # fmt: skip
batch = {"global_batch_size": want.batch_size, "micro_batch_size": want.batch_size}
train = TrainArgs(
    **batch, max_tokens=10**15, max_norm=1.0, lr_warmup_steps=100, tie_embeddings=True, save_interval=None
)
adamw = {"lr": 1e-3, "betas": (0.9, 0.99), "weight_decay": 0.1}
with tempfile.TemporaryDirectory() as folder:
    try:
        setup(
            "gpt2", shape, Path(folder), data=MadeUp(), train=train, devices=1, logger_name="csv",
            precision="bf16-mixed" if want.precision == "bfloat16" else "32-true",
            eval=EvalArgs(interval=10**9, max_iters=1, final_validation=False),
            optimizer={"class_path": "torch.optim.AdamW", "init_args": adamw},
        )  # fmt: skip
    except EnoughError:
        torch.set_num_threads(1)
