"""Requests share a batch, join and leave it at any step, wait in a bounded queue, and end when nobody reads."""

import contextlib
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from nanogpt.faults import CorruptFileError, UserError
from nanogpt.serving.settings import Limits
from tests.nanogpt.serving.serving_case import LETTERS, SECONDS, make_export, serving, streaming, table_engine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def export(tmp_path_factory):
    return make_export(tmp_path_factory.mktemp("models") / "run" / "micro")


def ask(server, seed: int, tokens: int = 40, **changes) -> str:
    answer = server.post("/v1/completions", {"prompt": "abc", "max_tokens": tokens, "seed": seed} | changes)
    assert answer.status_code == 200, answer.text
    return answer.json()["choices"][0]["text"]


def test_texts_written_together_are_those_written_alone(export):
    with serving(export, seconds=0.002) as server:
        with ThreadPoolExecutor(12) as pool:
            texts = list(pool.map(lambda seed: ask(server, seed, tokens=30 + seed), range(12)))
        decoder = server.engines["micro"].decoder
        assert max(decoder.rows) > 6 and decoder.steps < sum(30 + seed for seed in range(12)) / 2
    assert texts == [table_engine().complete("abc", max_new_tokens=30 + seed, seed=seed) for seed in range(12)]


def test_the_queue_is_bounded_and_says_when_to_come_again(export):
    limits = Limits(batch=1, queue=1)
    with serving(export, seconds=0.005, limits=limits) as server, ThreadPoolExecutor(1) as pool:
        with streaming(server):
            waiting = pool.submit(ask, server, 1, 3)
            server.until(lambda: server.figure("nanogpt_queue") == 1)
            refused = server.post("/v1/completions", {"prompt": "a"})
            assert refused.status_code == 429 and 1 <= int(refused.headers["retry-after"]) <= 60
            assert refused.json()["error"]["code"] == "queue_full" and not waiting.done()
            assert server.client.get("/health").status_code == 200
        assert len(waiting.result(SECONDS)) == 3


def test_the_text_of_a_client_that_hangs_up_leaves_the_batch(export):
    with serving(export, seconds=0.002) as server:
        with streaming(server):
            assert server.figure("nanogpt_batch_size") == 1
        server.until(lambda: server.figure("nanogpt_batch_size") == 0)
        with contextlib.suppress(httpx.ReadTimeout), httpx.Client(base_url=server.url, timeout=0.2) as client:
            client.post("/v1/completions", json={"prompt": "a", "max_tokens": 4_000})  # not streamed
        server.until(lambda: server.figure("nanogpt_batch_size") == 0)
        assert server.engines["micro"].decoder.steps < 1_000
        assert 'status="499"' in server.client.get("/metrics").text
        assert len(ask(server, 1, 5)) == 5


def test_a_waiting_client_that_hangs_up_leaves_the_queue(export):
    with serving(export, seconds=0.005, limits=Limits(batch=1, queue=1)) as server, streaming(server):
        with contextlib.suppress(httpx.ReadTimeout), httpx.Client(base_url=server.url, timeout=0.2) as client:
            client.post("/v1/completions", json={"prompt": "a"})
        server.until(lambda: server.figure("nanogpt_queue") == 0)


def test_a_client_that_hung_up_takes_no_place_in_the_queue_behind_others(export):
    with serving(export, seconds=0.005, limits=Limits(batch=1, queue=2)) as server, ThreadPoolExecutor(2) as pool:
        with streaming(server):
            first = pool.submit(ask, server, 1, 3)
            server.until(lambda: server.figure("nanogpt_queue") == 1)
            with contextlib.suppress(httpx.ReadTimeout), httpx.Client(base_url=server.url, timeout=0.2) as client:
                client.post("/v1/completions", json={"prompt": "a"})
            server.until(lambda: 'status="499"' in server.client.get("/metrics").text)
            second = pool.submit(ask, server, 2, 3)  # refused with 429 before: two were said to wait
            server.until(lambda: server.figure("nanogpt_queue") == 2)
        assert [len(waited.result(SECONDS)) for waited in (first, second)] == [3, 3]


def test_a_model_that_reads_a_prompt_is_not_idle(tmp_path):
    exports = [make_export(tmp_path / "run" / name) for name in ("a", "b")]
    reads, may_go_on = threading.Event(), threading.Event()

    class Slow(type(LETTERS)):
        def unknown_in(self, text):  # what the worker asks while it begins a text
            reads.set()
            may_go_on.wait(SECONDS)
            return super().unknown_in(text)

    def opening(found, *_):
        engine = table_engine()
        if found.model == "a":
            engine.tokenizer = Slow(LETTERS.alphabet)
        return engine

    with serving(*exports, opening=opening, limits=Limits(loaded=1)) as server, ThreadPoolExecutor(1) as pool:
        text = pool.submit(ask, server, 1, 3, model="run/a")
        assert reads.wait(SECONDS)
        refused = server.post("/v1/completions", {"model": "run/b", "prompt": "a"})
        may_go_on.set()
        assert refused.status_code == 429 and len(text.result(SECONDS)) == 3


def test_a_text_that_takes_too_long_ends_with_an_error(export):
    with serving(export, seconds=0.01, limits=Limits(request_seconds=0.2)) as server:
        answer = server.post("/v1/completions", {"prompt": "a", "max_tokens": 1_000})
        assert answer.status_code == 504 and answer.json()["error"]["code"] == "timeout"
        with streaming(server) as lines:
            events = [line for line in lines if line]
        assert events[-1] == "data: [DONE]"
        assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "timeout"
        server.until(lambda: server.figure("nanogpt_batch_size") == 0)


def test_a_model_that_computes_nan_ends_that_text_alone(export):
    token = int(LETTERS.encode("j")[0])
    with (
        serving(export, opening=lambda *_: table_engine(0.002, nan_after=token)) as server,
        ThreadPoolExecutor(1) as pool,
    ):
        other = pool.submit(ask, server, 1, 60, logit_bias={str(token): -100})
        server.until(lambda: server.figure("nanogpt_batch_size") == 1)
        answer = server.post("/v1/completions", {"prompt": "j", "max_tokens": 10})
        assert answer.status_code == 500 and "NaN" in answer.json()["error"]["message"]
        assert len(other.result(SECONDS)) == 60


def test_the_settings_of_one_client_end_no_text_of_another(export):
    extreme = {"repetition_penalty": 1e-300, "top_p": 0.9, "temperature": 1e-6}
    with serving(export, seconds=0.002) as server, ThreadPoolExecutor(1) as pool:
        other = pool.submit(ask, server, 1, 60)
        server.until(lambda: server.figure("nanogpt_batch_size") == 1)
        assert len(ask(server, 2, 10, **extreme)) == 10
        assert len(other.result(SECONDS)) == 60


def test_a_fault_of_the_decoder_ends_its_texts_and_not_the_server(export):
    engine = table_engine(0.001)
    whole = engine.decoder.step
    failing = threading.Event()

    def step(tokens, cache):
        if failing.is_set():
            failing.clear()
            raise MemoryError
        return whole(tokens, cache)

    engine.decoder.step = step
    with serving(export, opening=lambda *_: engine) as server:
        failing.set()
        answer = server.post("/v1/completions", {"prompt": "abc", "max_tokens": 10})
        assert answer.status_code == 500 and answer.json()["error"]["type"] == "server_error"
        assert ask(server, 4) == table_engine().complete("abc", max_new_tokens=40, seed=4)


@pytest.mark.parametrize("error", [CorruptFileError, UserError])
def test_a_damaged_model_is_an_error_for_those_who_ask_for_it(tmp_path, error):
    first, second = (make_export(tmp_path / "run" / name) for name in ("a", "b"))

    def opening(found, *_):
        if found.model == "b":
            raise error(f"{found.path}: is not what its manifest says")
        return table_engine()

    with serving(first, second, opening=opening) as server:
        for _ in range(2):
            answer = server.post("/v1/completions", {"model": "run/b", "prompt": "a"})
            assert answer.status_code == 500 and "manifest" in answer.json()["error"]["message"]
        assert server.post("/v1/completions", {"model": "run/a", "prompt": "a"}).status_code == 200
        server.until(lambda: any("run/b could not be loaded" in note for note in server.notes))


def test_running_requests_are_finished_and_new_ones_refused_at_the_end(export):
    with serving(export, seconds=0.005) as server, ThreadPoolExecutor(1) as pool:
        running = pool.submit(ask, server, 1, 60)
        server.until(lambda: server.figure("nanogpt_batch_size") == 1)
        server.loop.call_soon_threadsafe(server.server.drain)
        server.until(lambda: server.client.get("/health").json()["status"] == "draining")
        refused = server.post("/v1/completions", {"prompt": "a"})
        assert refused.status_code == 503 and refused.headers["retry-after"]
        assert len(running.result(SECONDS)) == 60


def test_the_second_request_to_end_does_not_wait(export):
    with serving(export, seconds=0.005) as server:
        with streaming(server) as lines:
            for _ in range(2):
                server.loop.call_soon_threadsafe(server.server.drain)
            assert any('"code": "unloaded"' in line for line in lines)
        assert any("1 request is finished first" in note for note in server.notes)
