"""OpenAI's own client, and LangChain's, against a server of ours."""

import json

import openai
import pytest
from pydantic import ValidationError

from nanogpt.inference.conversation import Message, Play
from nanogpt.inference.engine import Engine
from nanogpt.serving.ollama_api import OllamaChatRequest
from nanogpt.serving.openai_shapes import ChatRequest, CompletionRequest
from nanogpt.tokenizers.characters import CharTokenizer
from tests.nanogpt.model_case import randomised, small
from tests.nanogpt.serving.serving_case import LETTERS, make_export, serving, table_engine

pytestmark = pytest.mark.slow
MODEL = "run/micro"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with serving(make_export(tmp_path_factory.mktemp("models") / "run" / "micro")) as running:
        yield running


@pytest.fixture(scope="module")
def client(server):
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        yield client


def complete(prompt: str, **changes) -> str:
    return table_engine().complete(prompt, **changes)


def test_a_completion_is_what_the_engine_writes(client):
    answer = client.completions.create(model=MODEL, prompt="abc", max_tokens=30, seed=4, temperature=0.7, top_p=0.9)
    expected = complete("abc", max_new_tokens=30, seed=4, temperature=0.7, top_p=0.9)
    assert answer.choices[0].text == expected and answer.choices[0].finish_reason == "length"
    assert (answer.usage.prompt_tokens, answer.usage.completion_tokens, answer.usage.total_tokens) == (3, 30, 33)
    assert answer.model == MODEL and answer.object == "text_completion"


def test_streamed_pieces_are_the_same_text(client):
    chunks = list(client.completions.create(model=MODEL, prompt="abc", max_tokens=30, seed=4, stream=True))
    assert "".join(chunk.choices[0].text for chunk in chunks) == complete("abc", max_new_tokens=30, seed=4)
    assert [chunk.choices[0].finish_reason for chunk in chunks][-1] == "length"
    assert {chunk.usage and chunk.usage.completion_tokens for chunk in chunks} == {None, 30}
    assert chunks[-1].nanogpt["tokens_per_second"] > 0 and chunks[-1].nanogpt["slid"] is False


def test_usage_has_a_chunk_of_its_own_when_it_is_asked_for(client):
    chunks = list(
        client.completions.create(
            model=MODEL, prompt="abc", max_tokens=3, stream=True, stream_options={"include_usage": True}
        )
    )
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 3
    assert all(chunk.usage is None for chunk in chunks[:-1])


def test_several_prompts_and_texts_stand_in_order(client):
    answer = client.completions.create(model=MODEL, prompt=["abc", "def"], n=2, max_tokens=8, seed=1, echo=True)
    expected = [prompt + complete(prompt, max_new_tokens=8, seed=seed) for prompt in ("abc", "def") for seed in (1, 2)]
    assert [choice.text for choice in answer.choices] == expected
    assert [choice.index for choice in answer.choices] == [0, 1, 2, 3]
    assert answer.usage.prompt_tokens == 6 and answer.usage.completion_tokens == 32


def test_several_texts_are_streamed_with_their_index(client):
    texts = {0: "", 1: ""}
    for chunk in client.completions.create(model=MODEL, prompt="abc", n=2, max_tokens=8, seed=1, stream=True):
        for choice in chunk.choices:
            texts[choice.index] += choice.text
    assert texts == {0: complete("abc", max_new_tokens=8, seed=1), 1: complete("abc", max_new_tokens=8, seed=2)}


def test_probabilities_of_each_token(client):
    choice = client.completions.create(model=MODEL, prompt="abc", max_tokens=9, seed=4, logprobs=3).choices[0]
    logprobs = choice.logprobs
    assert "".join(logprobs.tokens) == choice.text
    assert logprobs.text_offset == [sum(map(len, logprobs.tokens[:place])) for place in range(9)]
    for token, logprob, likeliest in zip(logprobs.tokens, logprobs.token_logprobs, logprobs.top_logprobs, strict=True):
        assert len(likeliest) == 3 and max(likeliest.values()) >= logprob
        assert token not in likeliest or likeliest[token] == logprob


def test_a_stop_string_ends_the_text_before_it(client):
    whole = complete("abc", max_new_tokens=40, seed=2)
    stop = whole[10:12]
    choice = client.completions.create(model=MODEL, prompt="abc", max_tokens=40, seed=2, stop=[stop]).choices[0]
    assert choice.text == whole[: whole.index(stop)] and choice.finish_reason == "stop"


def test_a_bias_rules_tokens_out(client):
    choice = client.completions.create(
        model=MODEL,
        prompt="abc",
        max_tokens=20,
        logit_bias={str(token): -100 for token in range(1, LETTERS.vocab_size)},
    ).choices[0]
    assert len(set(choice.text)) == 1


TALK = [{"role": "system", "content": "Speak."}, {"role": "user", "content": "abc"}]


def test_a_chat_is_a_play_that_the_model_goes_on_with(client):
    answer = client.chat.completions.create(model=MODEL, messages=TALK, max_tokens=30, seed=3)
    prompt = Play().prompt([Message("system", "Speak."), Message("user", "abc")])
    expected = complete(prompt, max_new_tokens=30, seed=3, stop=Play().stops)
    assert answer.choices[0].message.content == expected and answer.choices[0].message.role == "assistant"
    assert answer.usage.prompt_tokens == len(prompt)


def test_a_chat_is_streamed(client):
    chunks = list(client.chat.completions.create(model=MODEL, messages=TALK, max_completion_tokens=30, seed=3,
                                                 stream=True, logprobs=True, top_logprobs=2))  # fmt: skip
    whole = client.chat.completions.create(model=MODEL, messages=TALK, max_tokens=30, seed=3)
    assert "".join(chunk.choices[0].delta.content for chunk in chunks) == whole.choices[0].message.content
    assert [chunk.choices[0].delta.role for chunk in chunks if chunk.choices[0].delta.role] == ["assistant"]
    tokens = [token for chunk in chunks for token in chunk.choices[0].logprobs.content]
    assert len(tokens) == whole.usage.completion_tokens and all(len(token.top_logprobs) == 2 for token in tokens)


def test_an_answer_can_be_put_back_into_the_talk(client):
    reply = client.chat.completions.create(model=MODEL, messages=TALK, max_tokens=5).choices[0].message
    assert client.chat.completions.create(model=MODEL, messages=[*TALK, reply, TALK[1]], max_tokens=5).choices


def test_models_are_listed(client):
    (listed,) = client.models.list().data
    assert listed.id == MODEL and listed.nanogpt["kind"] == "export" and listed.nanogpt["block_size"] == 64
    assert client.models.retrieve(MODEL) == listed


@pytest.mark.parametrize("field, meant", [("messages", ""), ("message", ""), ("promt", ' (did you mean "prompt"?)')])
def test_only_a_field_of_the_same_request_is_named_as_the_one_that_was_meant(server, field, meant):
    message = server.post("/v1/completions", {"prompt": "a", field: []}).json()["error"]["message"]
    assert message == f"{field}: /v1/completions has no such field{meant}"


def test_without_a_name_the_first_model_answers(server):
    assert server.post("/v1/completions", {"prompt": "a", "max_tokens": 1}).json()["model"] == MODEL


@pytest.mark.parametrize(
    "error, changes, words",
    [
        (openai.NotFoundError, {"model": "run/micr"}, 'did you mean "run/micro"'),
        (openai.BadRequestError, {"temperature": -1}, "temperature"),
        (openai.BadRequestError, {"max_tokens": 0}, "max_tokens"),
        (openai.BadRequestError, {"presence_penalty": 0.5}, "presence_penalty"),
        (openai.BadRequestError, {"extra_body": {"promt": "a"}}, 'did you mean "prompt"'),
        (openai.BadRequestError, {"extra_body": {"tools": []}}, "tools"),
        (openai.BadRequestError, {"prompt": [[1, 2]]}, "prompt"),
        (openai.BadRequestError, {"echo": True, "logprobs": 1}, "echo"),
        (openai.BadRequestError, {"logit_bias": {"a": 1}}, "logit_bias"),
        (openai.BadRequestError, {"logit_bias": {"999": 1}}, "999"),
        (openai.BadRequestError, {"max_tokens": 10**6}, "max_tokens"),
        (openai.BadRequestError, {"n": 9}, "n: found 9"),
        (openai.BadRequestError, {"prompt": ["a"] * 17}, "17 prompts"),
        (openai.BadRequestError, {"prompt": "a" * 100_001}, "100,001 characters"),
        (openai.BadRequestError, {"stop": ["a", "b", "c", "d", "e"]}, "5 strings"),
        (openai.BadRequestError, {"stop": "a" * 201}, "201 characters"),
        (openai.BadRequestError, {"logprobs": 21}, "logprobs"),
    ],
)
def test_a_mistake_is_the_clients_error_and_names_the_field(client, error, changes, words):
    with pytest.raises(error) as caught:
        client.completions.create(**{"model": MODEL, "prompt": "a", "max_tokens": 1} | changes)
    assert words in caught.value.message and set(caught.value.body) == {"message", "type", "param", "code"}


@pytest.mark.parametrize("body", [
    '{"prompt": NaN}', "[" * 100_000, '{"seed": ' + "9" * 5000 + "}", '{"prompt": "\\ud800"}', '{"temperature": 1e999}',
    "nonsense", "", "[]", '"a"', '{"model": "\\ud800"}', '{"stop": "\\ud800", "n": 2, "seed": "1"}',
])  # fmt: skip
def test_no_body_is_too_strange_for_an_answer(server, body):
    answer = server.client.post("/v1/completions", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (400, 404) and set(answer.json()["error"]) == {"message", "type", "param", "code"}


def test_any_seed_of_64_bits_gives_one_text(client, server):
    asked = dict(model=MODEL, prompt="abc", max_tokens=9)
    for seed in (-1, -(2**63), 2**63 - 1):
        texts = {client.completions.create(**asked, seed=seed).choices[0].text for _ in range(2)}
        assert texts == {complete("abc", max_new_tokens=9, seed=seed % 2**63)}
    fresh = {"model": MODEL, "prompt": "abc", "stream": False, "options": {"seed": -1, "num_predict": 30}}
    assert len({server.post("/api/generate", fresh).json()["response"] for _ in range(4)}) > 1


@pytest.mark.parametrize("path, body", [
    ("/v1/completions", '{"prompt": [%s]}'), ("/v1/completions", '{"stop": [%s]}'),
    ("/v1/chat/completions", '{"messages": [%s]}'),
    ("/v1/chat/completions", '{"messages": [{"role": "user", "content": [%s]}]}'),
    ("/api/chat", '{"model": "a", "messages": [%s]}'),
])  # fmt: skip
def test_a_thousand_mistakes_are_looked_at_no_longer_than_one(path, body):
    """All of them listed, 1 MB of them keeps everybody else waiting for seconds."""
    shape = {"/v1/completions": CompletionRequest, "/v1/chat/completions": ChatRequest, "/api/chat": OllamaChatRequest}
    with pytest.raises(ValidationError) as caught:
        shape[path].model_validate(json.loads(body % ", ".join(["1"] * 1000)))
    assert caught.value.error_count() <= 3  # one for each type that the field may have


@pytest.mark.parametrize("temperature", [0, 1e-9, 99.9])
def test_the_ends_of_the_temperature(client, temperature):
    answer = client.completions.create(model=MODEL, prompt="abc", max_tokens=12, seed=1, temperature=temperature)
    assert answer.choices[0].text == complete("abc", max_new_tokens=12, seed=1, temperature=temperature)


SCHEMA = {"type": "object", "properties": {"a": {"enum": [1, 22]}}, "required": ["a"], "additionalProperties": False}


def test_an_answer_keeps_to_a_schema(tmp_path):
    pytest.importorskip("llguidance")
    json_letters = CharTokenizer('a:{}"123, \nROMEJULIT')
    model = randomised(small(block_size=32, vocab_size=json_letters.vocab_size))
    said = dict(model=MODEL, messages=[{"role": "user", "content": "a"}], max_tokens=100)
    export = make_export(tmp_path / "run" / "micro")
    with (
        serving(export, opening=lambda *_: Engine.of_model(model, json_letters)) as server,
        openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client,
    ):
        named = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA, "strict": True}}
        choices = client.chat.completions.create(**said, n=3, response_format=named).choices
        assert all(json.loads(choice.message.content)["a"] in (1, 22) for choice in choices)
        assert {choice.finish_reason for choice in choices} == {"stop"}
        begun = client.chat.completions.create(**said | {"max_tokens": 1}, response_format={"type": "json_object"})
        assert begun.choices[0].message.content == "{"
        for form, first in ((SCHEMA, '{"a":'), ("json", "{")):
            asked = {"model": MODEL, "prompt": "a", "format": form, "stream": False, "options": {"num_predict": 40}}
            assert server.post("/api/generate", asked).json()["response"].startswith(first)
        named["json_schema"]["schema"] = {"type": "nonsense"}
        with pytest.raises(openai.BadRequestError, match=r"json_schema: .*nonsense"):
            client.chat.completions.create(**said, response_format=named)
        named["json_schema"]["schema"] = {"const": "x"}
        with pytest.raises(openai.BadRequestError, match="no token of the model's vocabulary"):
            client.chat.completions.create(**said, response_format=named)
        named["json_schema"]["schema"] = {"type": "object", "properties": {f"p{number}": {} for number in range(1000)}}
        with pytest.raises(openai.BadRequestError, match=r"json_schema: found 11,.* at most 10,000 are taken"):
            client.chat.completions.create(**said, response_format=named)


def test_characters_outside_the_alphabet_are_reported(client):
    extra = client.completions.create(model=MODEL, prompt="abcß", max_tokens=1).nanogpt
    assert extra["unknown"] == {"characters": {"ß": 1}, "share": 0.25}


def test_a_prompt_beyond_the_window_is_read_from_its_end(client):
    answer = client.completions.create(model=MODEL, prompt="a" * 500, max_tokens=1)
    assert answer.nanogpt["slid"] is True and answer.usage.prompt_tokens == 500


def test_langchain_talks_to_it(server):
    langchain_openai = pytest.importorskip("langchain_openai")
    chat = langchain_openai.ChatOpenAI(base_url=f"{server.url}/v1", api_key="none", model=MODEL, max_tokens=12, seed=5)
    answer = chat.invoke([("system", "Speak."), ("human", "abc")])
    assert answer.content == complete(
        Play().prompt([Message("system", "Speak."), Message("user", "abc")]),
        max_new_tokens=12,
        seed=5,
        stop=Play().stops,
    )
    assert answer.usage_metadata["output_tokens"] > 0
    assert "".join(chunk.content for chunk in chat.stream([("system", "Speak."), ("human", "abc")])) == answer.content


def test_events_are_what_the_standard_says(server):
    answer = server.post("/v1/completions", {"prompt": "abc", "max_tokens": 4, "stream": True})
    assert answer.headers["content-type"].startswith("text/event-stream")
    events = answer.text.split("\n\n")
    assert events[-2:] == ["data: [DONE]", ""]
    assert all(json.loads(event.removeprefix("data: "))["id"].startswith("cmpl-") for event in events[:-2])
