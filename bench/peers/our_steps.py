"""This project's steps, timed as every other trainer's are: python -m bench.peers.our_steps WANTED"""

import torch

from bench.peers.asked import Laps, asked
from nanogpt import device as devices
from nanogpt.config import Config
from nanogpt.measure.real_step import RealStep


def main() -> None:
    want = asked()
    model = {"preset": "gpt2", "n_layer": want.n_layer, "n_head": want.n_head, "n_embd": want.n_embd,
             "block_size": want.block_size, "vocab_size": want.vocab_size, "bias": want.device == "cpu"}  # fmt: skip
    training = {"batch_size": want.batch_size, "optimizer": "adamw"}
    half = want.precision != "float32" and want.precision
    device = {"type": want.device, "threads": want.threads, "mixed_precision": half}
    config = Config.model_validate({"model": model, "training": training, "device": device})
    devices.configure(want.device, want.threads)
    real = RealStep(config, want.device, want.precision)
    if want.device == "cuda":
        real.loss_sum = torch.compile(real.model.loss_sum, dynamic=False)
    laps, more = Laps(want), True
    while more:
        real.run()
        more = laps.lap()
    laps.say()


if __name__ == "__main__":
    main()
