"""modded-nanogpt's recipe of November 2024 cut to the race's size: python modded_race.py FILE DATA STEPS SEED PRECISION

FILE is its train_gpt2.py of commit 299faa64, its last one before FlexAttention and CUDA kernels; DATA is the folder of
nanoGPT's train.bin and val.bin. Taken from it as it stands: model, Muon, the rates of the four optimizers. The cut:

- 4 layers, 4 heads, 128 wide, 65 characters, and 12 windows of 64 a step; there 12, 6, 768, 50,304 and 512 of 1,024
- STEPS in place of 3,242; the cool-down's and the momentum warm-up's share of them stay (926 and 500 of 3,242)
- one process without torch.compile, DDP and all_reduce; the batch in one piece
- PRECISION float32: what it keeps or computes in bfloat16 is in float32, for processors that would emulate it
"""

import ast
import json
import os
import sys
import time
from pathlib import Path

import numpy as np
import torch

OF_STEPS, COOL_DOWN, MOMENTUM_WARM_UP = 3242, 926, 500
BATCH, WINDOW = 12, 64
file, data, steps, seed, precision = Path(sys.argv[1]), Path(sys.argv[2]), *map(int, sys.argv[3:5]), sys.argv[5]


def definitions(source: str) -> str:
    """Its imports, functions, classes and table of Newton-Schulz's kinds; what is left out is the training itself."""
    kept = []
    for node in ast.parse(source).body:
        if isinstance(node, ast.Assign) and ast.unparse(node).startswith("args ="):
            return "\n\n".join(kept)
        if not isinstance(node, ast.With):  # it reads its own text
            kept.append(ast.unparse(node))
    raise SystemExit(f"{file}: not the train_gpt2.py of commit 299faa64")


source = definitions(file.read_text(encoding="utf-8")).replace("@torch.compile", "").replace("'cuda'", "'cpu'")
if precision == "float32":
    source = source.replace(".bfloat16()", ".float()").replace("torch.bfloat16", "torch.float32")
os.environ |= {"WORLD_SIZE": "1", "RANK": "0"}
theirs = {"__name__": "modded"}
exec(compile(source, str(file), "exec"), theirs)
theirs["dist"].all_reduce = lambda *arguments, **more: None

torch.manual_seed(seed)
train, held_out = (torch.from_numpy(np.fromfile(data / name, np.uint16).astype(np.int64))
                   for name in ("train.bin", "val.bin"))  # fmt: skip
model = theirs["GPT"](theirs["GPTConfig"](vocab_size=65, n_layer=4, n_head=4, n_embd=128))
if precision == "bfloat16":
    model = model.bfloat16()
    for module in model.modules():
        if isinstance(module, theirs["CastedLinear"]):
            module.float()
blocks = list(model.transformer.h.parameters())
adam = {"betas": (0.9, 0.95), "fused": True}
muon = theirs["Muon"]([p for p in blocks if p.ndim == 2], lr=0.02, momentum=0.95)
optimizers = [torch.optim.Adam([model.transformer.wte.weight], lr=0.3, **adam),
              torch.optim.Adam([model.lm_head.weight], lr=0.002, **adam), muon,
              torch.optim.Adam([p for p in blocks if p.ndim < 2], lr=0.02, **adam)]  # fmt: skip
cool_down, warm_up = steps * COOL_DOWN / OF_STEPS, steps * MOMENTUM_WARM_UP / OF_STEPS
schedules = [torch.optim.lr_scheduler.LambdaLR(each, lambda step: min(1, (steps - step) / cool_down))
             for each in optimizers]  # fmt: skip

began, at = time.perf_counter(), 0
for step in range(steps):
    if at + BATCH * WINDOW + 1 > len(train):
        at = 0
    piece, at = train[at : at + BATCH * WINDOW + 1], at + BATCH * WINDOW
    model(piece[:-1].view(BATCH, WINDOW), piece[1:].view(BATCH, WINDOW)).backward()
    share = min(step / warm_up, 1)
    muon.param_groups[0]["momentum"] = (1 - share) * 0.85 + share * 0.95
    for optimizer, schedule in zip(optimizers, schedules, strict=True):
        optimizer.step()
        schedule.step()
    model.zero_grad(set_to_none=True)
seconds = time.perf_counter() - began

count = (len(held_out) - 1) // WINDOW * WINDOW
x, y = held_out[:count].view(-1, WINDOW), held_out[1 : count + 1].view(-1, WINDOW)
with torch.no_grad():
    losses = [model(a, b).item() * len(a) for a, b in zip(x.split(128), y.split(128), strict=True)]
parameters = sum(p.numel() for p in model.parameters())
print(json.dumps({"seconds": seconds, "loss": sum(losses) / len(x), "parameters": parameters}))
