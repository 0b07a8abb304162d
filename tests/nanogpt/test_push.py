"""nanogpt push, through huggingface_hub's real client, to a server on loopback that answers as the hub does."""

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import yaml
from huggingface_hub import constants

from nanogpt import cli
from nanogpt.export import folder_card
from nanogpt.export.formats import FORMATS, card_for, write_model
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.weights.sources import source_at
from tests.nanogpt.model_case import randomised, small
from tests.nanogpt.trained_case import train_into

TOKEN = "hf_secret"
# What hub-docs (modelcard.md) and the hub's own validator ask of metadata.
REQUIRED_OF_A_RESULT = ("task", "dataset", "metrics")


class Hub(ThreadingHTTPServer):
    """Repositories by name, each with its files; `log`: the requests."""

    daemon_threads, block_on_close = True, False  # the client keeps its connections open

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.repositories: dict[str, dict] = {}
        self.large: dict[str, bytes] = {}
        self.log: list[str] = []

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Answer(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args) -> None:
        pass

    def body(self) -> bytes:
        return self.rfile.read(int(self.headers.get("Content-Length", 0)))

    def send(self, status: int, content: dict) -> None:
        data = json.dumps(content).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.end_headers()
        self.wfile.write(data)

    def do_GET(self) -> None:
        name = self.path.removeprefix("/api/models/")
        found = self.server.repositories.get(name)
        if found is None:
            return self.send(404, {"error": "Repository not found"})
        return self.send(200, {"id": name, "private": found["private"], "sha": "0" * 40, "siblings": [], "tags": []})

    def do_PUT(self) -> None:
        content = self.body()
        self.server.large[self.path.removeprefix("/large/")] = content
        self.send(200, {})

    def do_POST(self) -> None:
        self.server.log.append(self.path)
        data = self.body()
        if self.path == "/api/validate-yaml":
            errors = mistakes_in(json.loads(data)["content"])
            return self.send(400 if errors else 200, {"errors": [{"message": error} for error in errors]})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.send(401, {"error": "Invalid username or password."})
        if self.path == "/api/repos/create":
            return self.create(json.loads(data))
        if self.path.endswith("/preupload/main"):
            files = [
                {"path": file["path"], "shouldIgnore": False, "oid": None,
                 "uploadMode": "lfs" if file["path"].startswith("model.") else "regular"}
                for file in json.loads(data)["files"]
            ]  # fmt: skip
            return self.send(200, {"files": files})
        if self.path.endswith("/info/lfs/objects/batch"):
            upload = f"{self.server.address}/large"
            objects = [
                {"oid": wanted["oid"], "size": wanted["size"],
                 "actions": {"upload": {"href": f"{upload}/{wanted['oid']}", "header": {}}}}
                for wanted in json.loads(data)["objects"]
            ]  # fmt: skip
            return self.send(200, {"transfer": "basic", "objects": objects})
        [name] = re.findall("/api/models/(.+)/commit/main", self.path)
        for line in map(json.loads, data.splitlines()):
            value, files = line["value"], self.server.repositories[name]["files"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.server.large[value["oid"]]
        return self.send(200, {"commitUrl": f"{self.server.address}/{name}/commit/{'1' * 40}", "commitOid": "1" * 40})

    def create(self, asked: dict) -> None:
        name = f"{asked['organization']}/{asked['name']}"
        if name in self.server.repositories:
            return self.send(
                409, {"error": "You already created this model repo", "url": f"{self.server.address}/{name}"}
            )
        self.server.repositories[name] = {"private": asked.get("visibility") == "private", "files": {}}
        return self.send(200, {"url": f"{self.server.address}/{name}"})


def mistakes_in(card: str) -> list[str]:
    """What the hub would say of the metadata of a card."""
    front = re.match(r"---\n(.*?)\n---\n", card, re.DOTALL)
    metadata = yaml.safe_load(front[1]) if front else {}
    found = [f"{key} should be text" for key in ("license", "library_name") if not isinstance(metadata.get(key), str)]
    if metadata.get("pipeline_tag") != "text-generation":
        found.append("pipeline_tag")
    for model in metadata.get("model-index", []):
        found += [f"{key} is required" for row in model["results"] for key in REQUIRED_OF_A_RESULT if key not in row]
    return found


@pytest.fixture
def hub(monkeypatch) -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    monkeypatch.setenv("HF_ENDPOINT", server.address)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(constants, "HF_HUB_DISABLE_XET", True)  # plain uploads
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture(scope="module")
def exports(tmp_path_factory) -> Path:
    """An export in each format, by its name."""
    home = tmp_path_factory.mktemp("exports")
    train_into(home / "trained")
    tokenizer = CharTokenizer("abcdefgh \n")
    model = randomised(small("gpt2", vocab_size=tokenizer.vocab_size))
    for name, form in FORMATS.items():
        write_model(model, tokenizer, form, home / name, card_for(home / "trained", home / name))
    return home


def refused(capsys, *words: object) -> str:
    capsys.readouterr()
    assert cli.main([str(word) for word in words]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.splitlines()[-1].startswith("nanogpt: ")
    return err.splitlines()[-1]


@pytest.mark.parametrize("name", FORMATS)
def test_an_export_arrives_whole_and_its_card_is_accepted(name, exports, hub, capsys):
    assert cli.main(["push", str(exports / name), "--repo", "ada/bard", "--private"]) == 0
    out, err = capsys.readouterr()
    assert out == f"{hub.address}/ada/bard\n" and "license: unknown" in err
    assert hub.repositories["ada/bard"]["private"]
    sent = hub.repositories["ada/bard"]["files"]
    assert sent == {path.name: path.read_bytes() for path in (exports / name).iterdir()}
    assert "/api/validate-yaml" in hub.log
    assert hub.large.keys() == {hashlib.sha256(sent[FORMATS[name].weights]).hexdigest()}
    assert cli.main(["push", str(exports / name), "--repo", "ada/bard"]) == 0  # once more, into what is there


def test_what_is_no_export_is_not_sent(exports, hub, tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("private")
    assert "is no whole export" in refused(capsys, "push", tmp_path, "--repo", "ada/bard")
    assert "is no whole export" in refused(capsys, "push", exports / "trained", "--repo", "ada/bard")
    assert "is no whole export" in refused(capsys, "push", tmp_path / "absent", "--repo", "ada/bard")
    assert "expected owner/name" in refused(capsys, "push", exports / "hf", "--repo", "bard")
    assert "--repo a/b c" in refused(capsys, "push", exports / "hf", "--repo", "a/b c")
    assert "--repo ada/.." in refused(capsys, "push", exports / "hf", "--repo", "ada/..")
    assert not hub.repositories


def test_damaged_weights_and_a_card_that_a_hub_refuses_are_not_sent(exports, hub, tmp_path, capsys):
    form, model = FORMATS["hf"], randomised(small("gpt2", vocab_size=11))
    write_model(model, CharTokenizer("abcdefgh \n"), form, tmp_path, card_for(exports / "trained", tmp_path))
    weights, card = tmp_path / form.weights, tmp_path / "README.md"
    whole, text = weights.read_bytes(), card.read_text()
    weights.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert "damaged" in refused(capsys, "push", tmp_path, "--repo", "ada/bard")
    weights.write_bytes(whole)
    for broken, reason in [
        (None, "README.md: is missing"),
        ("---\n[1\n---\n# x\n", "no card that a hub takes"),
        (text.replace("license: unknown\n", "license: [mit]\n"), "license should be text"),
    ]:
        card.unlink(missing_ok=True)
        if broken is not None:
            card.write_text(broken)
        assert reason in refused(capsys, "push", tmp_path, "--repo", "ada/bard")
        assert not hub.repositories.get("ada/bard", {"files": {}})["files"]


def test_a_token_a_hub_and_privacy_that_are_missing_are_named(exports, hub, capsys, monkeypatch):
    assert cli.main(["push", str(exports / "hf"), "--repo", "ada/public"]) == 0
    before = len(hub.log)
    assert "is public" in refused(capsys, "push", exports / "hf", "--repo", "ada/public", "--private")
    assert not any("commit" in path for path in hub.log[before:])
    monkeypatch.setenv("HF_TOKEN", "wrong")
    assert "set HF_TOKEN" in refused(capsys, "push", exports / "hf", "--repo", "ada/bard")
    before = len(hub.log)
    with monkeypatch.context() as without:
        without.setattr("nanogpt.export.hub.get_token", lambda: None)
        said = refused(capsys, "push", exports / "hf", "--repo", "ada/bard")
    assert "there is no token: set HF_TOKEN" in said and len(hub.log) == before
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert "cannot be reached" in refused(capsys, "push", exports / "hf", "--repo", "ada/bard")


def test_the_name_in_a_card_is_the_models(exports):
    assert folder_card.described(source_at(exports / "trained")).name in (exports / "gguf/README.md").read_text()


@pytest.mark.parametrize("content", [[1, 2], None, {"nothing": "here"}])
def test_what_is_no_hub_is_said_in_one_line(exports, hub, monkeypatch, capsys, content):
    monkeypatch.setattr(Answer, "create", lambda self, asked: self.send(200, content))
    assert cli.main(["push", str(exports / "hf"), "--repo", "me/poet"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert f"{hub.address} does not answer as a hub does" in said[-1]
