"""POST /nanogpt/attention and GET /nanogpt/examples, over the application that the page's routers are mounted on."""

import string

import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from nanogpt.export import huggingface
from nanogpt.serving import attention, examples
from nanogpt.tokenizers.characters import CharTokenizer
from tests.nanogpt.model_case import randomised, small

ALPHABETS = {"english": string.printable, "russian": "абвгдежзийклмнопрстуфхцчшщъыьэюяЧЖ -?\n"}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    folders = {}
    for name, alphabet in ALPHABETS.items():
        tokenizer = CharTokenizer(alphabet)
        folders[name] = tmp_path_factory.mktemp(name)
        huggingface.export(randomised(small(vocab_size=tokenizer.vocab_size)), tokenizer, folders[name])
    folders["damaged"] = tmp_path_factory.mktemp("damaged")
    app = FastAPI()
    app.state.model_folder = folders.__getitem__
    app.include_router(attention.router)
    app.include_router(examples.router)
    return TestClient(app)


def ask(client, **question):
    return client.post("/nanogpt/attention", json={"model": "english", "text": "the cat"} | question)


def test_attention_by_layer_and_head_sums_to_one(client):
    answer = ask(client).json()
    assert answer["tokens"] == list("the cat")
    assert [len(layer) for layer in answer["layers"]] == [4, 4]
    for head in [head for layer in answer["layers"] for head in layer]:
        assert len(head) == 7 and sum(head) == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize("question, status, words", [
    ({"model": "other"}, 404, "model: there is no 'other'; GET /v1/models"),
    ({"model": "damaged"}, 400, "holds no model"),
    ({"text": ""}, 422, "at least 1 character"),
    ({"text": "a" * 100_001}, 422, "at most 100000 characters"),
    ({"model": 3}, 422, "valid string"),
])  # fmt: skip
def test_what_cannot_be_answered_is_refused_in_words(client, question, status, words):
    answer = ask(client, **question)
    assert answer.status_code == status and words in answer.text


def test_while_others_are_computed_one_waits_and_is_then_sent_away(client, monkeypatch):
    monkeypatch.setattr(attention, "LONGEST_WAIT", 0.01)
    with attention._one_at_a_time:
        answer = ask(client)
    assert answer.status_code == 429 and int(answer.headers["retry-after"]) > 0
    assert ask(client).status_code == 200


def test_examples_are_of_the_models_alphabet(client):
    english, russian = (
        client.get("/nanogpt/examples", params={"model": name}).json() for name in ("english", "russian")
    )
    assert len(english["chat"]) == len(english["text"]) == examples.MOST and "Once upon a time" in english["text"]
    assert russian == {"chat": ["Что нового?"], "text": ["Жили-были"]}
    assert client.get("/nanogpt/examples", params={"model": "other"}).status_code == 404
    assert client.get("/nanogpt/examples", params={"model": "damaged"}).json() == {"chat": [], "text": []}
