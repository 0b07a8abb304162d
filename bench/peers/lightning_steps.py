"""nanoGPT's model and optimizer in a plain loop of Lightning. nanoGPT's folder is the working folder."""

import sys

import lightning
import torch
from asked import Laps, asked
from torch.utils.data import DataLoader

sys.path.insert(0, ".")
from model import GPT, GPTConfig


class Training(lightning.LightningModule):
    def __init__(self):
        super().__init__()
        shape = GPTConfig(n_layer=want.n_layer, n_head=want.n_head, n_embd=want.n_embd, block_size=want.block_size,
                          vocab_size=want.vocab_size, dropout=0.0, bias=want.device == "cpu")  # fmt: skip
        self.model = GPT(shape)

    def configure_optimizers(self):
        return self.model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), want.device)

    def training_step(self, batch, index):
        loss = self.model(batch[:, :-1].contiguous(), batch[:, 1:].contiguous())[1]
        self.log("loss", loss, prog_bar=True)
        return loss

    def on_train_batch_end(self, outputs, batch, index):
        self.trainer.should_stop = not laps.lap()


class SameBatch(torch.utils.data.IterableDataset):
    def __iter__(self):
        while True:
            yield tokens


want = asked()
tokens = want.tokens()
laps = Laps(want)
lightning.Trainer(
    accelerator=want.device, devices=1, precision="bf16-mixed" if want.precision == "bfloat16" else "32-true",
    max_steps=-1, gradient_clip_val=1.0, logger=False, enable_checkpointing=False,
).fit(Training(), DataLoader(SameBatch(), batch_size=None))  # fmt: skip
print()  # the bar's line ends
laps.say()
