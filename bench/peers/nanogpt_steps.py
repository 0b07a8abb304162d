"""nanoGPT's own model and optimizer in the body of its loop. Its folder is the working folder."""

import contextlib
import sys

import torch
from asked import Laps, asked

sys.path.insert(0, ".")
from model import GPT, GPTConfig

want = asked()
cuda = want.device == "cuda"
torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
shape = GPTConfig(n_layer=want.n_layer, n_head=want.n_head, n_embd=want.n_embd, block_size=want.block_size,
                  vocab_size=want.vocab_size, dropout=0.0, bias=not cuda)  # fmt: skip
model = GPT(shape).to(want.device)
optimizer = model.configure_optimizers(0.1, 1e-3, (0.9, 0.99), want.device)
model = torch.compile(model) if cuda else model
half = torch.autocast(want.device, torch.bfloat16) if want.precision == "bfloat16" else contextlib.nullcontext()
tokens = want.tokens().to(want.device)
x, y = tokens[:, :-1].contiguous(), tokens[:, 1:].contiguous()
laps, more = Laps(want), True
while more:
    with half:
        _, loss = model(x, y)
    loss.backward()
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    more = laps.lap()
laps.say()
