"""bench.decoding goes on without a contender that fails, whose row says why."""

from bench.contenders import Ask
from bench.decoding import Contender, Found, Model, alone, measure
from nanogpt.config import ModelConfig

ANSWER = '[{"n_gen": 0, "avg_ns": 3000000}, {"n_gen": 4, "avg_ns": 8000000}]'


def test_one_contender_fails(tmp_path):
    (tmp_path / "gguf-f32").mkdir()
    (tmp_path / "gguf-f32" / "model.gguf").touch()
    programs = {"works": f"echo '{ANSWER}'", "fails": "exit 3"}
    found = {}
    for name, script in programs.items():
        program = tmp_path / name
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)
        found[Contender(f"llama {name}", "llama_bench", ("gguf", "f32"), 32, (str(program),))] = Found()
    measure(Model("a model", ModelConfig(vocab_size=5), Ask(2, 4, 1, 1.0), 60.0), found, tmp_path, rounds=2)
    rows = list(alone(found, weights=1000, rate=4e6))[2:]
    assert rows[0] == "| llama works | 500 | 1.00 | 50 % | 3.0 ms |"
    assert rows[1].startswith("| llama fails | failed: subprocess.CalledProcessError: ")
