"""The loss of nanoGPT's checkpoint in whole windows: python nanogpt_loss.py CKPT WINDOW DEVICE, in nanoGPT's folder."""

import json
import sys

import numpy as np
import torch

sys.path.insert(0, ".")
from model import GPT, GPTConfig

path, window, device = sys.argv[1], int(sys.argv[2]), sys.argv[3]
saved = torch.load(path, map_location="cpu", weights_only=False)
model = GPT(GPTConfig(**saved["model_args"])).eval()
model.load_state_dict({name.removeprefix("_orig_mod."): weight for name, weight in saved["model"].items()})
model.to(device)
tokens = torch.from_numpy(np.fromfile("data/shakespeare_char/val.bin", dtype=np.uint16).astype(np.int64))
count = (len(tokens) - 1) // window * window
x, y = tokens[:count].view(-1, window), tokens[1 : count + 1].view(-1, window)
with torch.no_grad():
    losses = [
        model(a.to(device), b.to(device))[1].item() * len(a) for a, b in zip(x.split(128), y.split(128), strict=True)
    ]
print(json.dumps({"loss": sum(losses) / len(x), "parameters": sum(p.numel() for p in model.parameters())}))
