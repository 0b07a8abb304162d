"""bench.data: its text is the same each time, and a command that is watched or killed is accounted for."""

import random
import sys

from bench import made_text
from bench.process_tree import Tree

POOL = [f"This is sentence number {number} of the pool, and no other." for number in range(2000)]
STARTS_ONE = """
import multiprocessing, time
if __name__ == "__main__":
    work = multiprocessing.get_context("spawn").Process(target=time.sleep, args=(60,))
    work.start()
    work.join()
    raise SystemExit(3 if work.exitcode == -9 else 0)
"""


def test_the_text_is_the_same_each_time_and_repeats_only_what_it_should(monkeypatch):
    monkeypatch.setattr(made_text, "MEGABYTES_A_FILE", 1)
    texts = list(made_text.documents(POOL, 7))
    assert texts == list(made_text.documents(POOL, 7)) != list(made_text.documents(POOL, 8))
    assert 1e6 <= sum(map(len, texts)) < 1.01e6
    assert 0.01 < 1 - len(set(texts)) / len(texts) < 0.06
    assert 0.01 < sum(" another " in text for text in texts) / len(texts) < 0.06


def test_one_worker_is_killed_and_the_command_says_how_it_ended(tmp_path):
    script = tmp_path / "starts_one.py"
    script.write_text(STARTS_ONE)
    tree = Tree([sys.executable, str(script)], tmp_path / "log", tmp_path)
    while not tree.kill_one(random.Random(0)):
        assert not tree.wait(0.05)
    assert tree.wait(20)
    took = tree.took()
    assert took.code == 3 and took.memory > 1e6 and took.cpu > 0 and took.seconds < 20
