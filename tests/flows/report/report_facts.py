"""Facts of a run such as the eight phases leave, for the documents' tests: whole, with a failed phase, with none."""

import copy
import json
import math
import random
from pathlib import Path
from typing import Any

from nanogpt import plots

TITLES = (
    "Environment",
    "Implementation",
    "Configuration",
    "Dataset",
    "Training",
    "Evaluation",
    "Deployment",
    "Documentation",
)
PLANNED = (6, 14, 22, 12, 470, 40, 14, 8)
ACTUAL = (4.1, 11.8, 19.6, 9.2, 431.0, 44.5, 12.3, None)
STEPS = {
    1: ["environment.folders", "environment.system", "environment.device", "environment.packages"],
    2: ["implementation.checks"],
    3: ["configuration.measure", "configuration.plan"],
    4: ["dataset.fetch", "dataset.clean", "dataset.characters", "dataset.bpe"],
    5: ["training.micro", "training.tiny"],
    6: ["evaluation.models", "evaluation.samples", "evaluation.speed", "evaluation.baselines", "evaluation.tests"],
    7: ["deployment.export", "deployment.examples"],
    8: ["documentation.report"],
}
SAMPLE = """ROMEO:
Why, then thou shalt not see the world to-night,
And I will speak with thee of thine own heart.

JULIET:
What say'st thou? Is the morning come so soon?
"""
HOSTILE = """````
```
<script>alert("out")</script>
{{ facts.run }} {% raw %} | a | b | <b>bold</b> ~~~~ `tick`
````````
<!-- # Not a heading -->
# Not a heading
"""


def complete_facts(folder: Path) -> dict[str, Any]:
    """A run that did all it planned: two models trained, one memory fault mended. `folder` gets their metrics."""
    micro = _model(
        folder, "micro", 803_000, steps=420, end=1.83, spread=0.02, seconds=31, speed=11_900, tokens_per_step=768
    )
    tiny = _model(
        folder, "tiny", 10_650_000, steps=2_300, end=1.52, spread=0.16, seconds=398, speed=8_870, tokens_per_step=12_288
    )
    micro["facts"].update(predicted_seconds=30, expected_bits_per_byte=2.66, remedies=[])
    tiny["facts"].update(predicted_seconds=430, expected_bits_per_byte=2.2, remedies=[])
    steps = {
        **_environment(),
        **_implementation(),
        **_configuration(),
        **_dataset(),
        "training.micro": micro["facts"],
        "training.tiny": tiny["facts"],
        **_evaluation(),
        **_deployment(),
    }
    command = "python3 -m flows.full_run --run night --budget 10m --data tiny_shakespeare"
    return {
        "run": "night",
        "workspace": "/home/ada/nanogpt-autopilot",
        "command": command,
        "resume_command": "python3 -m flows.full_run --run night",
        "prefect_url": "http://127.0.0.1:4200",
        "versions": {"nanogpt-autopilot": "0.1.0", "python": "3.12.11", "torch": "2.13.0", "prefect": "3.8.8"},
        "started": "2026-11-20 23:40:02",
        "ended": "2026-11-20 23:49:01",
        "sessions": 1,
        "budget_seconds": 600,
        "min_charge": 20.0,
        "spent_seconds": 539.2,
        "phases": _phases(),
        "steps": steps,
        "models": [micro, tiny],
        "remedies": [
            {
                "when": "2026-11-20 23:43:17",
                "step": "training.tiny",
                "symptom": "out_of_memory",
                "evidence": "DefaultCPUAllocator: can't allocate memory: you tried to allocate 402653184 bytes",
                "remedy": "halve the micro-batch, double the accumulation",
                "outcome": "micro-batch 6, cpu",
                "cost_seconds": 14.2,
                "steps_lost": 31,
            }
        ],
        "milestones": [
            {
                "sha": "4f2c9d1a7be0c6d83a5e1f0b9c2d4e6f8a1b3c5d",
                "title": "Plan: micro, then tiny",
                "time": "2026-11-20 23:40:58+01:00",
            },
            {
                "sha": "9e8d7c6b5a4f3e2d1c0b9a8f7e6d5c4b3a2f1e0d",
                "title": "tiny trained: val loss 1.5204",
                "time": "2026-11-20 23:48:20+01:00",
            },
        ],
        "configs": {"micro": _config("micro", 4, 4, 128, 64, 12, 1), "tiny": _config("tiny", 6, 6, 384, 256, 12, 4)},
    }


def failed_facts(folder: Path) -> dict[str, Any]:
    """Training failed for good after its first model: evaluation went on with that one, export is blocked."""
    facts = complete_facts(folder)
    cause = "training.tiny: the device failed 3 times at step 250 (MPS command buffer exited with error status)"
    _set_phase(facts, 5, "failed", cause, "python3 -m flows.full_run --run night --set device.type=cpu")
    _set_phase(facts, 7, "blocked", "needs training.tiny", "python3 -m flows.full_run --run night --only deployment")
    for name in ("training.tiny", "deployment.export", "deployment.examples"):
        del facts["steps"][name]
    facts["models"][1]["facts"] = {"status": "failed", "symptom": "device", "message": cause}
    evaluated = facts["steps"]["evaluation.models"]
    evaluated["best"] = "micro"
    del evaluated["models"]["tiny"]
    return facts


def bare_facts(failed: int = 1) -> dict[str, Any]:
    """A run whose first phase failed: nothing was measured, everything else is blocked."""
    facts: dict[str, Any] = {
        "run": "night",
        "workspace": "/home/ada/nanogpt-autopilot",
        "command": "python3 -m flows.full_run --run night --budget 10m",
        "resume_command": "python3 -m flows.full_run --run night",
        "prefect_url": None,
        "versions": {"python": "3.12.11"},
        "started": "2026-11-20 23:40:02",
        "ended": "2026-11-20 23:40:04",
        "sessions": 1,
        "budget_seconds": 600,
        "min_charge": 20.0,
        "spent_seconds": 1.8,
        "phases": _phases(),
        "steps": {},
        "models": [],
        "remedies": [],
        "milestones": [],
        "configs": {},
    }
    for number in range(1, 8):
        _set_phase(facts, number, "blocked", "needs phase 1", None)
    _set_phase(facts, failed, "failed", "0.4 GiB free on /home/ada, this plan needs 1.9 GiB", facts["resume_command"])
    return facts


def draw_figures(facts: dict[str, Any], folder: Path) -> dict[str, Path]:
    """The figures that phase 8 draws, under the names that the report asks for."""
    figures = []
    folders = {model["name"]: Path(model["folder"]) for model in facts["models"]}
    for name, model in folders.items():
        figures.append(plots.loss_plot(model, folder / f"{name}-loss.svg"))
        figures.append(plots.learning_rate_plot(model, folder / f"{name}-learning-rate.svg"))
        figures.append(plots.speed_plot(model, folder / f"{name}-speed.svg"))
    baselines = facts["steps"].get("evaluation.baselines", {}).get("bits_per_byte", {})
    evaluated = facts["steps"].get("evaluation.models", {}).get("models", {})
    tested = {name: scores["test"]["bits_per_byte"] for name, scores in evaluated.items()}
    times = [(f"{p['number']} {p['title']}", p["planned_seconds"], p["seconds"]) for p in facts["phases"]]
    figures.append(
        plots.comparison_plot(folders, folder / "comparison.svg", {k: v for k, v in baselines.items() if "gram" in k})
    )
    figures.append(plots.baselines_plot(baselines, tested, folder / "baselines.svg"))
    figures.append(plots.phase_times_plot(times, folder / "phase-times.svg"))
    return {path.stem: path for path in figures}


def without_phase(facts: dict[str, Any], number: int) -> dict[str, Any]:
    """`facts` as they are when phase `number` failed before any of its steps finished."""
    facts = copy.deepcopy(facts)
    _set_phase(facts, number, "failed", f"phase {number} broke | here", facts["resume_command"])
    for name in STEPS[number]:
        facts["steps"].pop(name, None)
    if number == 5:
        facts["models"] = []
    if number == 3:
        facts["configs"] = {}
    return facts


def _set_phase(facts: dict[str, Any], number: int, status: str, cause: str | None, command: str | None) -> None:
    facts["phases"][number - 1].update(status=status, cause=cause, next_command=command, seconds=None)
    for step in facts["phases"][number - 1]["steps"]:
        step.update(state=status, reason=cause, seconds=None)


def _phases() -> list[dict[str, Any]]:
    phases = []
    for number, title in enumerate(TITLES, 1):
        kept = number == 4
        reason = "finished 2026-11-20 22:10, inputs and outputs unchanged" if kept else "never run"
        phases.append(
            {
                "number": number,
                "title": title,
                "status": "kept" if kept else "running" if number == 8 else "done",
                "seconds": ACTUAL[number - 1],
                "planned_seconds": PLANNED[number - 1],
                "cause": None,
                "next_command": None,
                "steps": [
                    {
                        "name": name,
                        "title": name.split(".")[1].capitalize(),
                        "state": "kept" if kept else "done",
                        "reason": reason,
                        "seconds": ACTUAL[number - 1] and ACTUAL[number - 1] / len(STEPS[number]),
                    }
                    for name in STEPS[number]
                ],
            }
        )
    return phases


def _model(
    folder: Path,
    name: str,
    parameters: int,
    steps: int,
    end: float,
    spread: float,
    seconds: float,
    speed: float,
    tokens_per_step: int,
) -> dict[str, Any]:
    """A model folder with a believable curve: fast fall, plateau, a last fall in the cool-down."""
    noise = random.Random(name)
    model = folder / "models" / name
    model.mkdir(parents=True, exist_ok=True)
    rows: list[dict[str, Any]] = []
    decay_start, warmup, every = int(0.4 * steps), 20, max(1, steps // 12)
    best = math.inf
    for step in range(1, steps + 1):
        share = step / steps
        base = end + (math.log(65) - end) * (
            0.75 * math.exp(-step / 25) + 0.25 * (1 - share) ** 2 * math.exp(-2 * share)
        )
        rate = (
            0.01
            * min(step / warmup, 1)
            * (1 if step < decay_start else 1 - 0.95 * (step - decay_start) / (steps - decay_start))
        )
        if step % 10 == 0 or step == 1:
            rows.append(
                {
                    "kind": "train",
                    "step": step,
                    "loss": base - spread * share + noise.gauss(0, 0.03),
                    "learning_rate": rate,
                    "grad_norm": 0.4 + 2 * math.exp(-step / 60) + abs(noise.gauss(0, 0.08)),
                    "tokens": step * tokens_per_step,
                    "seconds": seconds * share,
                    "tokens_per_second": speed * noise.uniform(0.93, 1.03),
                    "memory_bytes": int(parameters * 28 + 4e8 + noise.random() * 1e7),
                }
            )
        if step % every == 0 or step == steps:
            rows.append(
                {
                    "kind": "eval",
                    "step": step,
                    "val_loss": base,
                    "train_loss": base - spread * share,
                    "bits_per_byte": base / math.log(2),
                    "seconds": seconds * share,
                    "best": base < best,
                }
            )
            best = min(best, base)
    (model / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (model / "samples.jsonl").write_text("".join(
        json.dumps({"step": step, "temperature": temperature, "text": f"step {step} at {temperature}\n{SAMPLE}"}) + "\n"
        for step in (steps // 2, steps) for temperature in (1.0, 0.6)
    ))  # fmt: skip
    final = [row for row in rows if row["kind"] == "eval"][-1]
    facts = {
        "status": "finished",
        "step": steps,
        "seconds": seconds,
        "tokens": steps * tokens_per_step,
        "best_val_loss": best,
        "best_step": steps,
        "final_val_loss": final["val_loss"],
        "sha256": "ab" * 32,
        "parameters": parameters,
        "tokens_per_second": speed,
        "peak_memory_bytes": int(parameters * 28 + 4.2e8),
        "device": "cpu",
        "precision": "bfloat16",
        "reason": "out of time",
        "folder": f"checkpoints/night/{name}",
    }
    return {"name": name, "folder": str(model), "facts": facts}


def _config(
    name: str, n_layer: int, n_head: int, n_embd: int, block_size: int, batch: int, accumulation: int
) -> dict[str, Any]:
    return {
        "name": name,
        "model": {
            "preset": "modern",
            "n_layer": n_layer,
            "n_head": n_head,
            "n_embd": n_embd,
            "block_size": block_size,
            "dropout": 0.0,
            "vocab_size": 66,
        },
        "training": {
            "batch_size": batch,
            "gradient_accumulation": accumulation,
            "max_iters": 2300,
            "learning_rate": 0.01,
            "optimizer": "muon",
            "muon_learning_rate": 0.02,
            "schedule": "wsd",
            "early_stopping_patience": 0,
        },
        "data": {"source": "tiny_shakespeare", "tokenizer": "char"},
        "device": {"type": "auto"},
    }


def _environment() -> dict[str, Any]:
    return {
        "environment.folders": {"folders": ["state/night", "logs/night", "data", "checkpoints", "reports/night"]},
        "environment.system": {
            "python": "3.12.11",
            "platform": "Linux-6.8.0-x86_64",
            "processor": "AMD EPYC 9B14",
            "cores": 2,
            "physical_cores": 1,
            "memory_bytes": 8 * 2**30,
            "memory_available_bytes": 6.1 * 2**30,
            "disk_free_bytes": 31 * 2**30,
            "disk_needed_bytes": 1.9 * 2**30,
            "checks": [
                {"name": "Python", "level": "ok", "found": "3.12.11", "needed": "3.11 or newer", "advice": ""},
                {
                    "name": "Memory",
                    "level": "warn",
                    "found": "6.1 GiB free",
                    "needed": "8 GiB for the largest model",
                    "advice": "close other programs, or expect the ladder to stop at tiny",
                },
                {"name": "Disk", "level": "ok", "found": "31.0 GiB free", "needed": "1.9 GiB", "advice": ""},
            ],
        },
        "environment.device": {
            "asked": "auto",
            "device": "cpu",
            "warning": None,
            "name": "AMD EPYC 9B14",
            "memory_bytes": 8 * 2**30,
            "float32_flops": 1.9e11,
            "bfloat16_flops": 3.7e11,
            "max_relative_error": 3.1e-7,
            "candidates": [
                {"device": "mps", "works": False, "error": "not built for MPS"},
                {"device": "cuda", "works": False, "error": "no driver"},
                {"device": "cpu", "works": True, "error": None},
            ],
        },
        "environment.packages": {
            "count": 91,
            "packages": {"torch": "2.13.0", "numpy": "2.3.1", "prefect": "3.8.8"},
            "file": "state/night/requirements.txt",
        },
    }


def _implementation() -> dict[str, Any]:
    names = [
        "causal mask",
        "attention against float64",
        "layer norm statistics",
        "RoPE is relative",
        "every gradient",
        "weight tying",
        "initial loss",
        "cached decoding",
        "checkpoint round trip",
        "overfits one batch",
    ]
    checks = [
        {
            "name": name,
            "group": "component",
            "passed": True,
            "measured": 1.2e-7 * (i + 1),
            "limit": 1e-5,
            "unit": "",
            "explanation": f"{name}: the measured difference must stay under the limit",
        }
        for i, name in enumerate(names)
    ]
    checks.append(
        {
            "name": "loss parity",
            "group": "device",
            "passed": True,
            "measured": 4.1e-7,
            "limit": 1e-4,
            "unit": "relative",
            "explanation": "float32 against float64 on the CPU",
        }
    )
    return {
        "implementation.checks": {
            "device": "cpu",
            "passed": 11,
            "failed": 0,
            "checks": checks,
            "fell_back": False,
            "warning": None,
        }
    }


def _configuration() -> dict[str, Any]:
    rung = {"tokenizer": "char", "precision": "bfloat16", "batch_size": 12}
    measured = {"precision": "bfloat16", "micro_batch": 12}
    return {
        "configuration.measure": {
            "seconds": 17.0,
            "models": {
                "micro": {
                    "parameters": 803_000,
                    "seconds_per_step": 0.066,
                    "tokens_per_second": 11_700,
                    "flops_per_second": 6.1e10,
                    "peak_memory_bytes": 430e6,
                    "share_of_peak": 0.16,
                    **measured,
                },
                "tiny": {
                    "parameters": 10_650_000,
                    "seconds_per_step": 1.38,
                    "tokens_per_second": 8_900,
                    "flops_per_second": 1.2e11,
                    "peak_memory_bytes": 1.9e9,
                    "share_of_peak": 0.32,
                    **measured,
                },
            },
        },
        "configuration.plan": {
            "budget_seconds": 600,
            "ladder": [
                {
                    "name": "micro",
                    "parameters": 803_000,
                    "n_layer": 4,
                    "n_head": 4,
                    "n_embd": 128,
                    "block_size": 64,
                    "gradient_accumulation": 1,
                    "max_iters": 420,
                    "tokens": 322_560,
                    "seconds": 30,
                    "memory_bytes": 430e6,
                    "why": "a small model first, so that something good always exists",
                    **rung,
                },
                {
                    "name": "tiny",
                    "parameters": 10_650_000,
                    "n_layer": 6,
                    "n_head": 6,
                    "n_embd": 384,
                    "block_size": 256,
                    "gradient_accumulation": 4,
                    "max_iters": 2_300,
                    "tokens": 28_262_400,
                    "seconds": 430,
                    "memory_bytes": 1.9e9,
                    "why": "the largest whose loss is expected to fall below micro's in the time left",
                    **rung,
                },
            ],
            "left_out": [
                {"name": "huge", "reason": "has 49 parameters for each of the 1,003,854 tokens to learn from"},
                {
                    "name": "small",
                    "reason": "in 60 s it would see 9,216 tokens and reach about 4.21 bits per byte; "
                    "tiny reaches about 2.11",
                },
            ],
            "phases": [
                {"number": i + 1, "title": title, "planned_seconds": PLANNED[i]} for i, title in enumerate(TITLES)
            ],
        },
    }


def _dataset() -> dict[str, Any]:
    splits = {"train": (1_003_854, 1_003_854), "val": (55_770, 55_770), "test": (55_770, 55_770)}
    return {
        "dataset.fetch": {
            "source": "tiny_shakespeare",
            "origin": "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
            "sha256": "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
            "bytes": 1_115_394,
            "documents": 1,
            "licence": "public domain",
            "fallback_reason": None,
        },
        "dataset.clean": {
            "characters": 1_115_394,
            "bytes": 1_115_394,
            "lines": 40_000,
            "words": 202_651,
            "alphabet_size": 65,
            "alphabet": "\n !$&',-.3:;?ABCabc|`",
            "splits": {name: {"characters": c, "bytes": b} for name, (c, b) in splits.items()},
        },
        "dataset.characters": {
            "tokenizer": "char",
            "vocab_size": 66,
            "bytes_per_token": 1.0,
            "splits": {name: {"tokens": c, "bytes": b} for name, (c, b) in splits.items()},
            "most_frequent": [[" ", 169_892], ["e", 94_611], ["|", 3], ["\n", 40_000]],
        },
        "dataset.bpe": {
            "tokenizer": "bpe",
            "vocab_size": 1024,
            "bytes_per_token": 2.61,
            "splits": {name: {"tokens": int(c / 2.61), "bytes": b} for name, (c, b) in splits.items()},
            "most_frequent": [[" the", 5_437], [" I", 4_403]],
        },
    }


def _evaluation() -> dict[str, Any]:
    def scores(loss: float) -> dict[str, float]:
        return {"loss": loss, "perplexity": math.exp(loss), "bits_per_byte": loss / math.log(2), "tokens": 55_769}

    models = {
        "micro": {
            "val": scores(1.83),
            "test": scores(1.86),
            "nanogpt_loss": 1.8412,
            "parameters": 803_000,
            "tokenizer": "char",
        },
        "tiny": {
            "val": scores(1.52),
            "test": scores(1.55),
            "nanogpt_loss": 1.6133,
            "parameters": 10_650_000,
            "tokenizer": "char",
        },
    }
    samples = [
        {
            "temperature": temperature,
            "prompt": "ROMEO:",
            "text": SAMPLE.removeprefix("ROMEO:"),
            "coherence": {"coherent": True, "reasons": []},
        }
        for temperature in (0.5, 0.8, 1.0)
    ]
    return {
        "evaluation.models": {"best": "tiny", "models": models},
        "evaluation.samples": {
            "model": "tiny",
            "prompts": ["ROMEO:"],
            "samples": samples,
            "coherence": {
                "score": 0.93,
                "limit": 0.68,
                "reference": 0.97,
                "coherent": True,
                "reasons": [],
                "figures": {
                    "known_words": 0.93,
                    "surprise": 2.31,
                    "repetition": 0.02,
                    "longest_copy": 28,
                    "characters": 400,
                },
                "reference_figures": {
                    "known_words": 0.97,
                    "surprise": 2.44,
                    "repetition": 0.01,
                    "longest_copy": 41,
                    "characters": 5000,
                },
                "measure": "known words, surprise under a 5-gram, repetition and copying, each against held-out text",
            },
        },
        "evaluation.speed": {
            "model": "tiny",
            "tokens_per_second": 412.0,
            "prefill_tokens_per_second": 9_300.0,
            "achieved_bytes_per_second": 1.7e10,
            "peak_memory_bytes": 2.1e8,
        },
        "evaluation.baselines": {
            "bits_per_byte": {
                "uniform": 6.022,
                "unigram": 4.79,
                "5-gram": 2.41,
                "xz (test alone)": 3.43,
                "xz (after train)": 2.66,
            },
            "explanations": {"5-gram": "four bytes of context, interpolated modified Kneser-Ney"},
            "model": 2.236,
        },
        "evaluation.tests": {
            "command": "python -m pytest -m fast",
            "passed": 212,
            "failed": 0,
            "skipped": 3,
            "seconds": 13.8,
            "tail": "212 passed, 3 skipped in 13.80s",
        },
    }


def _deployment() -> dict[str, Any]:
    return {
        "deployment.export": {
            "folder": "exports/night/tiny",
            "bytes": 42_700_000,
            "files": [
                {"path": "exports/night/tiny/model.safetensors", "bytes": 42_600_000, "sha256": "cd" * 32},
                {"path": "exports/night/tiny/config.json", "bytes": 812, "sha256": "ef" * 32},
            ],
        },
        "deployment.examples": {
            "examples": [
                {
                    "name": "chat_bot.py",
                    "command": "python examples/chat_bot.py exports/night/tiny",
                    "exit_code": 0,
                    "seconds": 3.1,
                    "output": "you: Good morrow\nmodel: My lord, I will.",
                },
                {
                    "name": "complete.py",
                    "command": "python examples/complete.py exports/night/tiny",
                    "exit_code": 0,
                    "seconds": 2.4,
                    "output": SAMPLE,
                },
            ]
        },
    }
