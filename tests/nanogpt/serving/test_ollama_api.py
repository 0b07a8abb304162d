"""The part of Ollama's API that is there: its lines, its counts, its form of an error."""

import json

import pytest

from tests.nanogpt.serving.serving_case import make_export, serving, table_engine

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(make_export(tmp_path_factory.mktemp("models") / "run" / "micro")) as running:
        yield running


def test_a_text_comes_in_lines_and_whole(server):
    request = {"model": "run/micro", "prompt": "abc", "options": {"num_predict": 20, "seed": 3, "temperature": 0.5}}
    expected = table_engine().complete("abc", max_new_tokens=20, seed=3, temperature=0.5)
    lines = [json.loads(line) for line in server.post("/api/generate", request).text.splitlines()]
    assert "".join(line["response"] for line in lines) == expected
    assert [line["done"] for line in lines] == [False] * (len(lines) - 1) + [True]
    assert (lines[-1]["done_reason"], lines[-1]["prompt_eval_count"], lines[-1]["eval_count"]) == ("length", 3, 20)
    whole = server.post("/api/generate", request | {"stream": False}).json()
    assert whole["response"] == expected and whole["done"] is True


def test_a_chat(server):
    request = {"model": "run/micro", "messages": [{"role": "user", "content": "abc"}], "stream": False,
               "options": {"num_predict": 9, "stop": ["zz"]}}  # fmt: skip
    assert server.post("/api/chat", request).json()["message"]["role"] == "assistant"


def test_tags_and_version(server):
    (tag,) = server.client.get("/api/tags").json()["models"]
    assert tag["name"] == "run/micro" and tag["size"] == 10
    assert server.client.get("/api/version").json().keys() == {"version"}


@pytest.mark.parametrize("changes, status, words", [
    ({"model": "nobody"}, 404, "nobody"),
    ({"options": {"num_predict": 10**6}}, 400, "max_tokens"),
    ({"images": []}, 400, "images"),
])  # fmt: skip
def test_errors_have_ollamas_form(server, changes, status, words):
    answer = server.post("/api/generate", {"model": "run/micro", "prompt": "a"} | changes)
    assert answer.status_code == status and words in answer.json()["error"]
