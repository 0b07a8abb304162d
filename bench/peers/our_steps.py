"""This project's steps, timed by what phase 3 of a run times them with: python -m bench.peers.our_steps WANTED"""

import json

import torch

from bench.peers.asked import Asked, Laps, asked
from nanogpt.config import Config
from nanogpt.measure.profiler import measure_speed
from nanogpt.measure.real_step import RealStep


def main() -> None:
    want = asked()
    model = {"preset": "gpt2", "n_layer": want.n_layer, "n_head": want.n_head, "n_embd": want.n_embd,
             "block_size": want.block_size, "vocab_size": want.vocab_size, "bias": want.device == "cpu"}  # fmt: skip
    training = {"batch_size": want.batch_size, "optimizer": "adamw"}
    half = want.precision != "float32" and want.precision
    device = {"type": want.device, "threads": want.threads, "mixed_precision": half}
    config = Config.model_validate({"model": model, "training": training, "device": device})
    if want.device == "cuda":
        return on_cuda(want, config)
    speed = measure_speed(config, want.seconds)
    print(json.dumps({"seconds_per_step": speed.seconds_per_step, "steps": speed.steps, "warm_up": 0.0}))


def on_cuda(want: Asked, config: Config) -> None:
    real = RealStep(config, want.device, want.precision)
    setattr(real.model, "loss_sum", torch.compile(real.model.loss_sum, dynamic=False))  # noqa: B010  (of this object)
    laps, more = Laps(want), True
    while more:
        real.run()
        more = laps.lap()
    laps.say()


if __name__ == "__main__":
    main()
