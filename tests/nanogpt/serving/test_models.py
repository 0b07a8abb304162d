"""Models are loaded when they are asked for, unloaded when others need the place, and may vanish or change."""

import shutil
import time

import pytest

from nanogpt.serving.found_models import find_models
from nanogpt.serving.models import open_engine
from nanogpt.serving.settings import Limits, Settings
from tests.nanogpt.serving.serving_case import make_export, make_real_export, serving, streaming

pytestmark = pytest.mark.slow


@pytest.fixture
def exports(tmp_path):
    return [make_export(tmp_path / "run" / name) for name in ("a", "b", "c")]


def ask(server, name: str) -> int:
    return server.post("/v1/completions", {"model": f"run/{name}", "prompt": "a", "max_tokens": 1}).status_code


def loaded(server) -> list[str]:
    models = server.client.get("/v1/models").json()["data"]
    return [model["nanogpt"]["model"] for model in models if model["nanogpt"]["loaded"]]


def test_the_least_recently_used_model_gives_up_its_place(exports):
    with serving(*exports, limits=Limits(loaded=2)) as server:
        assert [ask(server, name) for name in "abac"] == [200] * 4
        assert loaded(server) == ["a", "c"]
        assert "run/b is unloaded: the least recently used" in server.notes
        server.until(lambda: server.figure("nanogpt_loaded_models") == 2)
        assert ask(server, "b") == 200 and loaded(server) == ["b", "c"]


def test_a_model_that_writes_keeps_its_place(exports):
    with serving(*exports[:2], limits=Limits(loaded=1), seconds=0.005) as server:
        with streaming(server):
            refused = server.post("/v1/completions", {"model": "run/b", "prompt": "a"})
            assert refused.status_code == 429 and refused.headers["retry-after"]
            assert refused.json()["error"]["code"] == "models_busy"
        server.until(lambda: ask(server, "b") == 200)


def test_a_removed_model_is_gone_and_the_others_are_not(exports):
    with serving(*exports[:2]) as server:
        assert [ask(server, name) for name in "ab"] == [200, 200]
        shutil.rmtree(exports[1])
        answer = server.post("/v1/completions", {"model": "run/b", "prompt": "a"})
        assert answer.status_code == 404 and "removed" in answer.json()["error"]["message"]
        assert [model["id"] for model in server.client.get("/v1/models").json()["data"]] == ["run/a"]
        assert server.client.get("/v1/models/run/b").status_code == 404
        assert ask(server, "a") == 200 and loaded(server) == ["a"]


@pytest.mark.parametrize("asked", [{}, {"model": "run/a"}])  # a listing is read again for the first alone
def test_weights_written_anew_are_read_anew(exports, asked):
    body = {"prompt": "a", "max_tokens": 1, **asked}
    with serving(exports[0]) as server:
        first = server.post("/v1/completions", body).json()["system_fingerprint"]
        engine = server.engines["a"]
        weights = exports[0] / "model.safetensors"
        (exports[0] / "new").write_bytes(weights.read_bytes())
        (exports[0] / "new").replace(weights)
        server.until(lambda: server.post("/v1/completions", body).json()["system_fingerprint"] != first)
        assert server.engines["a"] is not engine


def test_new_models_are_offered_while_it_runs(exports, monkeypatch):
    monkeypatch.setattr("nanogpt.serving.models.FRESH", 0)
    with serving(exports[0].parent) as server:
        make_export(exports[0].parent / "d")
        assert ask(server, "d") == 200


def test_two_servers_serve_one_model(exports):
    with serving(exports[0]) as one, serving(exports[0]) as other:
        assert ask(one, "a") == ask(other, "a") == 200


def test_the_next_turn_of_a_talk_reads_what_is_new_alone(tmp_path):
    export = make_real_export(tmp_path / "run" / "a")
    engine = open_engine(find_models([export])[0], Settings((export,), backend="torch"), lambda _: None)
    read, prefill = [], engine.decoder.prefill
    engine.decoder.prefill = lambda prompts, cache: (read.append(sum(map(len, prompts))), prefill(prompts, cache))[1]
    answer = engine.complete("abcdefghij" * 2, max_new_tokens=4, temperature=0)
    engine.complete("abcdefghij" * 2 + answer + "abc", max_new_tokens=1)
    assert read == [20, 4]  # the newest token of the answer, and three


def test_requests_wait_while_their_model_is_loaded(exports):
    from tests.nanogpt.serving.serving_case import table_engine

    def opening(*_):
        time.sleep(0.3)
        return table_engine()

    with serving(exports[0], opening=opening) as server:
        assert server.client.get("/health").json()["status"] == "ok"
        assert ask(server, "a") == 200
