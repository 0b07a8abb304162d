"""What checkpoints cost: python -m bench.checkpoint [CONFIG ...] [--disk DIR]

For each configuration one checkpoint of everything and one of the best weights alone, as at the default interval, as
a share of the training steps between two of them. Both in this process's CPU time, one thread, the least of several:
other work on the machine hardly changes it. What the disk adds is a figure of its own: the least wall time of a whole
save.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from flows.context.paths import CHECKOUT
from nanogpt import device as devices
from nanogpt.config import Config, load_config
from nanogpt.model.gpt import GPT
from nanogpt.training.numerics import native_precision
from nanogpt.training.update.optimizer import Optimizer
from nanogpt.weights import checkpoint

VOCABULARIES = {"micro": 65, "tiny_model": 1024, "small_model": 4096}
REPEATS = 5


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("configs", nargs="*", default=list(VOCABULARIES), help="names in configs/")
    parser.add_argument("--disk", type=Path, default=CHECKOUT, help="where to write")
    given = parser.parse_args()
    torch.set_num_threads(1)
    print("| Model | Parameters | Checkpoint | CPU | with the disk | Best weights, CPU | Step, CPU | Share |")
    print("|---|---|---|---|---|---|---|---|")
    for name in given.configs:
        print(row(name, given.disk), flush=True)
    return 0


def row(name: str, disk: Path) -> str:
    config = load_config(CHECKOUT / f"configs/{name}.yaml")
    config = config.with_changes({"model.vocab_size": config.model.vocab_size or VOCABULARIES.get(name, 4096)})
    model, state, step = trained(config)
    with tempfile.TemporaryDirectory(dir=disk) as folder:
        place = Path(folder) / "c"

        def save() -> None:
            checkpoint.save(place, model, step=0, facts={}, state=state)

        whole, size = least(save, time.process_time), sum(path.stat().st_size for path in place.iterdir())
        with_disk = least(save, time.perf_counter)
        best = least(lambda: checkpoint.save_model(place, model, step=0, facts={}), time.process_time)
    seconds, interval = least(step, time.process_time, 3), config.training.checkpoint_interval
    share = (whole + best) / (interval * seconds)
    return (
        f"| {name} | {model.num_parameters() / 1e6:.2f} M | {size / 1e6:.1f} MB | {whole * 1e3:.1f} ms | "
        f"{with_disk * 1e3:.1f} ms | {best * 1e3:.1f} ms | {seconds * 1e3:.1f} ms | {100 * share:.2f} % |"
    )


def trained(config: Config) -> tuple[GPT, dict, Callable[[], None]]:
    """A model, the state of its checkpoint after a step, and one training step of the whole batch."""
    model, precision = GPT(config.model).train(), native_precision("cpu")
    optimizer = Optimizer(model, config.training, getattr(torch, precision))
    tokens = torch.randint(config.model.vocab_size, (config.training.batch_size, config.model.block_size))

    def step() -> None:
        optimizer.forget_gradients()
        for _ in range(config.training.gradient_accumulation):
            with devices.autocast("cpu", precision):
                summed, _ = model.loss_sum(tokens, tokens)
            (summed / tokens.numel()).backward()
        optimizer.gradient_norm().item()
        optimizer.step(1e-3)

    step()
    return model, {"optimizer": optimizer.state_dict(), "random": checkpoint.random_state("cpu")}, step


def least(work: Callable[[], None], clock: Callable[[], float], repeats: int = REPEATS) -> float:
    """Seconds by `clock` of the quickest of several."""
    times = []
    for _ in range(repeats):
        began = clock()
        work()
        times.append(clock() - began)
    return min(times)


if __name__ == "__main__":
    raise SystemExit(main())
