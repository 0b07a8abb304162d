"""The page in a headless Chromium, as a person uses it: with mouse and keyboard, at three widths, in both schemes.

One browser and one server for all of it. Where there is no Chromium, nothing here runs.
"""

import json
import shutil
import string
import time
from collections.abc import Callable, Iterator
from importlib.resources import files
from pathlib import Path

import pytest

from nanogpt.export import huggingface
from nanogpt.inference.conversation import Message, Play
from nanogpt.inference.engine import Engine
from nanogpt.tokenizers.characters import CharTokenizer
from nanogpt.weights.folders import open_folder
from tests.load import allowed
from tests.nanogpt.model_case import randomised, small
from tests.nanogpt.serving.scripted_server import PAGE, ScriptedServer, running
from tests.nanogpt.serving.serving_case import serving

webdriver = pytest.importorskip("selenium.webdriver")
from selenium.webdriver.common.action_chains import ActionChains  # noqa: E402
from selenium.webdriver.common.keys import Keys  # noqa: E402

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("page"),
    pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("chromedriver")), reason="no chromium here"),
]
WIDTHS = {1400: 900, 820: 1100, 390: 844}
HOSTILE = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"
PATIENCE = 10.0


class Page:
    """The browser, and the server behind the page."""

    def __init__(self, browser, server: ScriptedServer, downloads: Path) -> None:
        self.browser, self.server, self.downloads = browser, server, downloads
        self.patience = allowed(PATIENCE)
        self.asked: set[str] = set()  # what pages have loaded
        self.browser.get(server.url)

    def open(self, width: int = 1400, scheme: str = "light") -> None:
        """A fresh one: nothing that an earlier test left is kept."""
        self.server.reset()
        size = {"width": width, "height": WIDTHS[width], "deviceScaleFactor": 1, "mobile": width < 500}
        self.browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)
        self.prefer(scheme)
        if not self.browser.current_url.startswith(self.server.url):  # a test went elsewhere
            self.browser.get(self.server.url)
        self.asked |= set(
            self.run(
                "localStorage.clear(); sessionStorage.clear(); Storage.prototype.setItem = () => {};"
                "return performance.getEntriesByType('resource').map((one) => one.name)"
            )
        )
        self.load()

    def load(self) -> None:
        self.browser.get(self.server.url)
        self.wait(lambda: self.all(".example"))

    def prefer(self, scheme: str) -> None:
        feature = {"name": "prefers-color-scheme", "value": scheme}
        self.browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})

    def wait(self, condition: Callable[[], object]):
        deadline = time.monotonic() + self.patience
        while not (found := condition()):
            assert time.monotonic() < deadline, f"it did not come to that; the page says: {self.text('body')}"
            time.sleep(0.04)
        return found

    def all(self, selector: str) -> list:
        return self.browser.find_elements("css selector", selector)

    def one(self, selector: str):
        return self.browser.find_element("css selector", selector)

    def text(self, selector: str) -> str:
        return self.run("return document.querySelector(arguments[0])?.textContent ?? ''", selector)

    def texts(self, selector: str) -> list[str]:
        return self.run("return [...document.querySelectorAll(arguments[0])].map(one => one.textContent)", selector)

    def run(self, script: str, *arguments):
        return self.browser.execute_script(script, *arguments)

    def click(self, selector: str, place: int = -1) -> None:
        self.all(selector)[place].click()

    def press(self, *keys: str) -> None:
        """On whatever has the focus."""
        ActionChains(self.browser, duration=0).send_keys(*keys).perform()

    def held(self, held: str, key: str) -> None:
        ActionChains(self.browser, duration=0).key_down(held).send_keys(key).key_up(held).perform()

    def alt(self, key: str) -> None:
        self.held(Keys.ALT, key)

    def say(self, words: str) -> None:
        self.one("#prompt").send_keys(words, Keys.ENTER)

    def is_written(self) -> bool:
        return (
            bool(self.all(".tools .stats"))
            and not self.all(".stats.live")
            and self.one("#stop").get_attribute("hidden")
        )

    def talk(self, words: str) -> str:
        """What the model answers."""
        self.say(words)
        self.wait(self.is_written)
        return self.texts(".tokens")[-1]

    def axe(self) -> list[str]:
        """What axe-core finds wrong, in a line each."""
        if not self.run("return Boolean(window.axe)"):
            self.browser.execute_cdp_cmd("Runtime.evaluate", {"expression": axe_source()})
        found = self.browser.execute_async_script("axe.run(document, {resultTypes: ['violations']}).then(arguments[0])")
        return [f"{one['id']}: {one['help']}: {node['target']} {node['failureSummary']}"
                for one in found["violations"] for node in one["nodes"]]  # fmt: skip


def axe_source() -> str:
    return (files("axe_core_python") / "axe.min.js").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator:
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--force-prefers-reduced-motion"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield browser
    browser.quit()


@pytest.fixture(scope="module")
def shared(browser, tmp_path_factory) -> Iterator[Page]:
    downloads = tmp_path_factory.mktemp("downloads")
    behaviour = {"behavior": "allow", "downloadPath": str(downloads)}
    browser.execute_cdp_cmd("Browser.setDownloadBehavior", behaviour)
    with running(ScriptedServer()) as server:
        yield Page(browser, server, downloads)


@pytest.fixture
def page(shared) -> Page:
    shared.open()
    return shared


# Writing


@pytest.mark.parametrize("width", WIDTHS)
def test_words_are_sent_and_the_answer_is_seen_while_it_is_written(shared, width):
    page = shared
    page.open(width)
    page.server.texts, page.server.pace = ["He comes, my lord: I hear his horse."], 0.01
    page.say("What news?")
    page.wait(lambda: page.text(".tokens").startswith("He"))
    assert page.text(".tokens") != page.server.texts[0] and page.one("#stop").is_displayed()
    page.wait(page.is_written)
    assert page.text(".tokens") == page.server.texts[0]
    assert "36 tokens · 1,235 tokens/s · first after" in page.text(".tools .stats")
    assert page.run("return document.documentElement.scrollWidth") <= width
    asked = page.server.asked[0]
    assert asked["prompt"] == "ROMEO:\nWhat news?\n\nJULIET:\n" and asked["stop"] == ["\n\n", "\nROMEO:\n"]
    assert (asked["model"], asked["stream"], asked["temperature"]) == ("default/best", True, 0.8)
    assert "top_k" not in asked and "seed" not in asked
    assert "were not taught to answer" in page.text("#play")


def test_escape_stops_and_what_was_written_stays(page):
    page.server.texts, page.server.pace = ["x" * 2_000], 0.01
    page.say("Speak.")
    page.wait(lambda: len(page.text(".tokens")) > 3)
    page.press(Keys.ESCAPE)
    page.wait(page.is_written)
    assert 3 < len(page.text(".tokens")) < 2_000 and "stopped" in page.text(".tools .stats")
    page.wait(lambda: page.server.left == 1)
    page.server.texts, page.server.pace = [" And more."], 0
    page.click("[aria-label='Write on']")
    page.wait(lambda: page.text(".tokens").endswith("x And more."))
    assert page.server.asked[1]["prompt"].endswith("JULIET:\n" + "x" * (len(page.text(".tokens")) - 10))


def test_versions_of_an_answer_and_of_ones_own_words_are_a_tree(page):
    page.server.texts = ["one", "two", "three", "four", "five"]
    page.talk("Begin.")
    page.click("[aria-label='Write it again']")
    page.wait(lambda: page.texts(".tokens") == ["two"])
    assert page.text(".versions") == "2/2"
    page.wait(page.is_written)
    page.talk("Go on.")
    assert page.server.asked[2]["prompt"] == "ROMEO:\nBegin.\n\nJULIET:\ntwo\n\nROMEO:\nGo on.\n\nJULIET:\n"
    page.click("[aria-label='Previous version']")
    assert page.texts(".tokens") == ["one"]  # what followed the other version went with it
    page.click("[aria-label='Next version']")
    assert page.texts(".tokens") == ["two", "three"]
    page.click("[aria-label='Edit']", 0)
    page.press(Keys.END, " Again", Keys.ENTER)
    page.wait(lambda: page.texts(".tokens") == ["four"])
    assert page.server.asked[3]["prompt"] == "ROMEO:\nBegin. Again\n\nJULIET:\n"
    page.wait(page.is_written)
    page.click("[aria-label='Previous version']")
    assert page.texts(".message.user .words") == ["Begin.", "Go on."] and page.texts(".tokens") == ["two", "three"]
    page.browser.refresh()
    page.wait(lambda: page.texts(".tokens") == ["two", "three"])  # the tab keeps it


def test_a_text_goes_on_and_on(page):
    page.click("label[for=mode-text]")
    page.server.texts = [" upon", " a time", "!"]
    page.talk("Once")
    assert page.server.asked[0]["prompt"] == "Once" and "stop" not in page.server.asked[0]
    page.talk("")
    assert page.server.asked[1]["prompt"] == "Once upon"
    page.talk(" there was")
    assert page.server.asked[2]["prompt"] == "Once upon a time there was"
    assert page.text(".document") == "Once upon a time there was!"
    assert not page.one("#play").is_displayed()
    page.click("label[for=mode-chat]")
    assert page.all(".examples") and not page.all(".document")


def test_an_example_begins(page):
    page.click(".example", 1)
    page.wait(page.is_written)
    assert page.server.asked[0]["prompt"] == "ROMEO:\nTell me of the king.\n\nJULIET:\n"


def test_names_scene_and_settings_are_asked_for(page):
    for name, value in (("user", "ANNA"), ("assistant", "BERT")):
        page.run("arguments[0].value = ''", page.one(f"#name-{name}"))
        page.one(f"#name-{name}").send_keys(f"{value}:", Keys.TAB)
    page.one("#scene").send_keys("A wood.")
    page.one("#stops").send_keys("END", Keys.ENTER, r"\n\n\n")
    page.one("#seed").send_keys("7")
    page.one("#setting-top_k").send_keys(Keys.ARROW_RIGHT * 3)
    page.one("#setting-temperature").send_keys(Keys.HOME)
    assert page.text("#setting-top_k-value") == "3" and page.text("#setting-min_p-value") == "off"
    page.talk("Hello.")
    asked = page.server.asked[0]
    assert asked["prompt"] == "A wood.\n\nANNA:\nHello.\n\nBERT:\n"
    assert asked["stop"] == ["\n\n", "\nANNA:\n", "END", "\n\n\n"]
    assert (asked["seed"], asked["top_k"], asked["temperature"]) == (7, 3, 0)
    page.click("[aria-label='Write it again']")
    page.wait(lambda: len(page.server.asked) == 2 and page.is_written())
    assert page.server.asked[1]["seed"] == 8  # or it would be the same text


# Models


def test_models_are_grouped_and_a_slider_goes_through_the_steps(page):
    groups = page.run("return [...document.querySelectorAll('optgroup')].map(group => [group.label, "
                      "[...group.children].map(option => option.textContent)])")  # fmt: skip
    assert groups == [
        ["Run default: tiny", ["tiny · export (step 5,000)", "tiny · best (step 4,500)", "tiny · final (step 6,000)",
                               "tiny · step 100", "tiny · step 1,000", "tiny · step 5,000"]],
        ["Run night: small", ["small · export (step 20,000)"]],
    ]  # fmt: skip
    assert page.text(".facts") == "4.85 M parameters · looks back 256 tokens · onnxruntime, float32, 2 threads"
    page.one(".steps input").send_keys(Keys.HOME)
    assert page.text(".steps output") == "step 100"
    page.talk("Speak.")
    page.one(".steps input").send_keys(Keys.ARROW_RIGHT)
    page.click("[aria-label='Write it again']")
    page.wait(lambda: page.text(".by") == "tiny · step 1,000")
    assert [asked["model"] for asked in page.server.asked] == ["default/tiny@step-100", "default/tiny@step-1000"]


def test_two_models_write_side_by_side(page):
    page.talk("Speak.")
    page.click("#compare")
    page.wait(lambda: len(page.texts(".pane")) == 2)
    page.server.texts = ["of the first", "of the second"]
    page.say("Both.")
    page.wait(lambda: len(page.texts(".tools .stats")) == 4)
    assert {asked["model"] for asked in page.server.asked[1:]} == {"default/best", "default/tiny@step-100"}
    assert {asked["prompt"] for asked in page.server.asked[1:]} == {
        "ROMEO:\nSpeak.\n\nJULIET:\nAy, my good lord.\n\nROMEO:\nBoth.\n\nJULIET:\n"
    }
    left, right = (pane.rect for pane in page.all(".pane"))
    assert left["x"] + left["width"] <= right["x"] and left["width"] == pytest.approx(right["width"], abs=2)
    page.click("#compare")
    assert len(page.texts(".pane")) == 1


# Tokens


def test_a_token_shows_its_probability_and_what_else_could_have_come(page):
    page.talk("Speak.")
    page.click("#surprise")
    assert page.run("return new Set([...document.querySelectorAll('.pane .token')].map("
                    "one => getComputedStyle(one).backgroundColor)).size") > 3  # fmt: skip
    token = page.all(".pane .token")[1]
    ActionChains(page.browser).move_to_element(token).perform()
    page.wait(page.one("#popover").is_displayed)
    assert page.text("#popover code") == page.text(".pane .token:nth-child(2)") == "y"
    shown = page.texts("#popover .alternative")
    assert len(shown) == 6 and all("%" in one for one in shown)
    assert page.text("#popover .chosen") == shown[2] == "y13.8 %" and shown[0] == "e43.1 %"  # best first
    assert "bits of surprise" in page.text("#popover")
    token.click()
    page.server.texts = ["nd so on."]
    page.click("#popover button.alternative", 2)
    page.wait(lambda: page.text(".pane .tokens") == "Aand so on.")
    assert page.server.asked[1]["prompt"].endswith("JULIET:\nAa") and page.text(".versions") == "2/2"


def test_attention_of_the_last_token_and_of_the_one_before_another(page):
    page.talk("Speak.")
    page.click("[aria-label='Attention of the last token']")
    page.wait(page.one("#attention-map").is_displayed)
    prompt = "ROMEO:\nSpeak.\n\nJULIET:\n"
    assert page.server.asked[1] == {"model": "default/best", "text": f"{prompt}Ay, my good lord."}
    assert page.text("#attention-strip") == f"{prompt}Ay, my good lord."
    mean = page.texts("#attention-most li")
    assert len(mean) == 5 and all("%" in one for one in mean)
    page.one("#attention-head").send_keys("Head 3")
    page.one("#attention-layer").send_keys("Layer 2")
    assert page.texts("#attention-most li") != mean
    drawn = "const c = document.getElementById('attention-map'); return new Set(c.getContext('2d').getImageData("
    assert page.run(f"{drawn}0, 0, c.width, 8).data).size") > 20
    page.press(Keys.ESCAPE)
    page.click(".pane .token", 5)
    page.click("#popover .quiet")
    page.wait(lambda: "Before it wrote “y”" in page.text("#attention-words"))
    assert page.server.asked[2]["text"] == f"{prompt}Ay, m"


# Modules by themselves


def module(page: Page, file: str, script: str, *arguments):
    """What the asynchronous `script` returns, in which `m` is a module of the page."""
    whole = (
        f"const a = [...arguments], answer = a.pop(); "
        f"import('./{file}').then(async (m) => {{{script}}}).then(answer, (error) => answer(String(error)))"
    )
    return page.browser.execute_async_script(whole, *arguments)


def test_a_play_is_written_as_the_terminal_and_the_server_write_it(page):
    talks = [
        (("user", "Hail!"), ("assistant", " Ay,\nmy lord. \n"), ("user", "And\n\n \n then?")),
        (("system", "A wood.\n\nNight. "), ("user", "")),
        (("system", " "), ("user", "x"), ("assistant", ""), ("user", "\n\n")),
    ]
    script = """
        const tree = new m.Tree();
        let node = tree.root;
        for (const [role, text] of a[0]) if (role !== "system") node = tree.add(node, role, text);
        return m.play(node, {user: "ROMEO", assistant: "JULIET"}, a[0][0][0] === "system" ? a[0][0][1] : "");"""
    for talk in talks:
        messages = [Message(role, content) for role, content in talk]
        assert module(page, "conversation.js", script, talk) == Play().prompt(messages)
    stops = module(page, "conversation.js", "return m.playStops({user: 'ROMEO', assistant: 'JULIET'})")
    assert tuple(stops) == Play().stops


def test_a_stream_is_read_however_its_bytes_are_cut(page):
    stream = ': hello\r\ndata: {"a":\r\ndata: 1}\r\n\r\nevent: x\nid: 3\ndata:é😀\n\n\rdata: z\r\rdata: cut off'
    script = """
        const bytes = new TextEncoder().encode(a[0]);
        const found = new Set();
        for (let size = 1; size <= bytes.length; size++) {
            const stream = new ReadableStream({start(to) {
                for (let at = 0; at < bytes.length; at += size) to.enqueue(bytes.slice(at, at + size));
                to.close();
            }});
            const read = [];
            for await (const data of m.events(stream)) read.push(data);
            found.add(JSON.stringify(read));
        }
        return [...found].map(JSON.parse);"""
    assert module(page, "api.js", script, stream) == [['{"a":\n1}', "é😀", "z"]]


# Files


def saved(page: Page) -> Path:
    for file in page.downloads.iterdir():
        file.unlink()
    page.click("#save")
    return page.wait(lambda: next(page.downloads.glob("*.json"), None))


def test_a_conversation_is_saved_and_opened_again(page):
    page.server.texts = ["one 😀 two", "three"]
    page.talk("Speak.")
    page.click("[aria-label='Write it again']")
    page.wait(lambda: page.text(".versions") == "2/2" and page.is_written())
    file = saved(page)
    page.click("#new")
    page.wait(lambda: page.all(".example"))
    page.one("#file").send_keys(str(file))
    page.wait(lambda: page.text(".pane .tokens") == "three")
    page.click("[aria-label='Previous version']")
    assert page.text(".pane .tokens") == "one 😀 two" and page.texts(".pane .token")[4] == "😀"
    page.click("#notice button")  # undo
    page.wait(lambda: page.all(".example"))


def hostile_files(good: dict) -> dict[str, str]:
    """What is wrong with a file -> its content."""
    nodes = good["panes"][0]["chat"]["nodes"]

    def with_node(**change: object) -> str:
        pane = good["panes"][0]
        changed = {"pick": 0, "nodes": [nodes[0], nodes[1] | change]}
        return json.dumps(good | {"panes": [pane | {"chat": changed}]})

    return {
        "is no JSON file": "{",
        "is no conversation saved here": json.dumps({"format": HOSTILE}),
        "has version 2": json.dumps(good | {"version": 2}),
        "names.user is": json.dumps(good | {"names": {"user": "A:\nB", "assistant": "C"}}),
        "panes is []": json.dumps(good | {"panes": []}),
        "nodes[1].role is": with_node(role=HOSTILE),
        "nodes[1].parent is 1": with_node(parent=1),
        "nodes[1].pick is 9": with_node(pick=9),
        "nodes[1].text is": with_node(text={"__proto__": 1}),
        "nodes[1].tokens[0][2] is": with_node(tokens=[["x", 0, "NaN", []]]),
        "nodes is \"5001 messages\"": json.dumps(
            good | {"panes": [good["panes"][0] | {"chat": {"pick": 0, "nodes": [nodes[0]] * 5001}}]}
        ),
    }  # fmt: skip


def test_a_file_that_is_none_of_ours_is_refused_in_a_line(page, tmp_path):
    page.talk("Speak.")
    for wrong, content in hostile_files(json.loads(saved(page).read_text(encoding="utf-8"))).items():
        (tmp_path / "file.json").write_text(content)
        page.one("#file").send_keys(str(tmp_path / "file.json"))
        page.wait(lambda wrong=wrong: wrong in page.text("#notice"))
        assert page.text("#notice").startswith("file.json: ") and "\n" not in page.text("#notice")
        assert page.text(".pane .tokens") == "Ay, my good lord." and page.browser.title == "nanogpt"


def test_text_is_never_html(page):
    page.server.texts = [HOSTILE]
    page.server.extra = {"unknown": {"characters": {HOSTILE: 1}}}
    assert page.talk(HOSTILE) == HOSTILE
    file = saved(page)
    page.click("#new")
    page.one("#file").send_keys(str(file))
    page.wait(lambda: page.text(".pane .tokens") == HOSTILE)
    page.click(".pane .token", 0)
    page.press(Keys.ESCAPE)
    page.server.refusals = [(400, HOSTILE, {})]
    page.say("Again.")
    page.wait(lambda: page.text(".failure p") == HOSTILE)
    page.alt("a")
    page.wait(lambda: HOSTILE in page.text("#attention-strip"))
    assert page.browser.title == "nanogpt" and not page.all("img, main script")


# Failures


def test_failures_say_what_to_do(page):
    page.server.refusals = [(429, "64 texts are being written", {"Retry-After": "3"})]
    page.say("Speak.")
    page.wait(lambda: page.all(".failure"))
    assert page.text(".failure p") == "The server is busy (64 texts are being written). Try again in 3 s."
    page.click(".failure button")
    page.wait(page.is_written)
    assert page.text(".pane .tokens") == "Ay, my good lord."
    page.server.broken = 3
    page.say("Again.")
    page.wait(lambda: "the model computed NaN" in page.text(".failure"))
    assert page.texts(".pane .tokens")[-1] == "Ay,"  # what came before is kept


def test_a_server_that_ends_is_said(page):
    own = ScriptedServer()
    with running(own) as server:
        page.browser.get(server.url)
        page.wait(lambda: page.all(".example"))
        own.pace, own.texts = 0.05, ["a" * 1000]
        page.say("Speak.")
        page.wait(lambda: "aa" in page.text(".pane .tokens"))
    page.wait(lambda: page.text(".failure p"))
    assert page.text(".failure p") == "The connection ended before the text did. Is the server still running?"
    assert "aa" in page.text(".pane .tokens")
    page.say("Again.")
    page.wait(lambda: "The server does not answer. Is `nanogpt serve` still running?" in page.texts(".failure p"))


def test_a_refusal_of_this_page_is_no_question_for_a_token(page):
    page.server.refusals = [(403, "Host: 'box' is no name of this server; --allow-host adds one", {})]
    page.say("Speak.")
    page.wait(lambda: "--allow-host" in page.text(".failure p"))
    assert "token" not in page.text(".failure p")


def test_an_answer_is_copied(page):
    granted = {"origin": page.server.url, "permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    page.browser.execute_cdp_cmd("Browser.grantPermissions", granted)
    answer = page.talk("Speak.")
    page.click("[aria-label='Copy the text']")
    page.wait(lambda: "Copied." in page.text("#notice"))
    read = "navigator.clipboard.readText().then(arguments[0], (error) => arguments[0](String(error)))"
    assert page.browser.execute_async_script(read) == answer


def test_an_access_token_is_asked_for_and_kept_in_memory_alone(page):
    page.server.token = "a secret of some length"
    page.browser.refresh()
    page.wait(page.one("#token").is_displayed)
    page.one("#token-field").send_keys(page.server.token, Keys.ENTER)
    page.wait(lambda: page.all(".example"))
    assert page.talk("Speak.") == "Ay, my good lord."
    kept = page.run("return JSON.stringify([localStorage, sessionStorage, document.cookie])")
    assert page.server.token not in kept and page.server.token not in saved(page).read_text()


def test_notes_say_what_the_model_could_not_do(page):
    page.server.extra = {"slid": True, "unknown": {"characters": {"é": 2, "漢": 1}, "share": 0.1}}
    page.server.finish = "length"
    page.talk("é")
    page.talk("And?")
    assert "longest answer reached" in page.text(".tools .stats")
    assert [note[:40] for note in page.texts(".note")] == [
        "The text is longer than the model can lo", "Outside the model's alphabet: é 漢. It wa"
    ]  # fmt: skip


# The server itself


def test_with_the_real_server_and_a_real_model(page, tmp_path):
    folder = tmp_path / "exports/night/small"
    tokenizer = CharTokenizer(string.printable)
    huggingface.export(randomised(small(vocab_size=tokenizer.vocab_size, block_size=64)), tokenizer, folder)
    with serving(tmp_path, opening=lambda found, *_: Engine.of_model(*open_folder(found.path))) as real:
        page.browser.get(real.url)
        page.wait(lambda: "Art thou happy?" in page.texts(".example"))
        page.one("#setting-max_tokens").send_keys(Keys.HOME)
        page.one("#seed").send_keys("3")
        answer = page.talk("é!")
        play = Play().prompt([Message("user", "é!")])
        assert answer == Engine.from_folder(folder).complete(
            play, max_new_tokens=10, temperature=0.8, seed=3, stop=Play().stops
        )
        assert page.text("optgroup") == "small · export" and "tokens/s" in page.text(".tools .stats")
        assert page.text(".note") == "Outside the model's alphabet: é. It was never trained on what stands for them."
        page.click(".pane .token", 3)
        assert len(page.texts("#popover .alternative")) in (8, 9)
        page.click("#popover .quiet")
        page.wait(page.one("#attention-map").is_displayed)
        assert page.text("#attention-strip") == play.replace("é", "\ufffd") + answer[:3]


# Everyone


def test_all_of_it_goes_without_a_mouse(page):
    page.server.texts = ["one", "two", "three"]
    assert page.run("return document.activeElement.id") == "prompt"
    page.press("Speak")
    page.held(Keys.SHIFT, Keys.ENTER)
    page.press("on.", Keys.ENTER)
    page.wait(page.is_written)
    assert page.server.asked[0]["prompt"] == "ROMEO:\nSpeak\non.\n\nJULIET:\n"
    assert page.text("#status") == "JULIET: one"  # read aloud once, when it is whole
    page.alt("r")
    page.wait(lambda: page.text(".pane .tokens") == "two" and page.is_written())
    page.alt(",")
    assert page.text(".pane .tokens") == "one"
    page.alt("e")
    page.press(" Softly.", Keys.ENTER)
    page.wait(lambda: page.text(".pane .tokens") == "three" and page.is_written())
    page.run("document.querySelector('.pane .tokens').focus()")
    page.press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.text("#status").startswith("h, ") and "else e" in page.text("#status")
    page.press(Keys.ENTER)
    assert page.run("return document.activeElement.className") == "alternative"
    page.press(Keys.ESCAPE)
    assert page.run("return document.activeElement.className.split(' ')[0]") == "tokens"
    page.alt("a")
    page.wait(page.one("#attention-map").is_displayed)
    page.press(Keys.ESCAPE)
    page.alt("/")
    assert page.one("#keys").is_displayed()
    page.press(Keys.ESCAPE)
    page.alt("i")
    assert page.run("return document.activeElement.id") == "prompt"


def test_the_tab_key_goes_from_top_to_bottom(page):
    page.talk("Speak.")
    page.run("document.querySelector('.skip').focus()")
    order = []
    for _ in range(40):
        page.press(Keys.TAB)
        order.append(
            page.run("const a = document.activeElement; return a.id || a.getAttribute('aria-label') || a.className")
        )
        if order[-1] == "reset":
            break
    wanted = ["new", "compare", "settings-button", "model-A", "Edit", "Write it again", "prompt", "mode-chat", "send",
              "name-user", "name-assistant", "settings-close", "setting-temperature", "seed", "reset"]  # fmt: skip
    assert [one for one in order if one in wanted] == wanted


def test_dark_and_light_follow_the_system_until_one_is_chosen(page):
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = page.run(ground)
    page.prefer("dark")
    dark = page.run(ground)
    assert light != dark
    page.click("#scheme")
    assert page.run(ground) == light  # chosen, though the system is dark
    page.load()
    assert page.run(ground) == light
    page.click("#scheme")
    page.prefer("light")
    assert page.run(ground) == dark


@pytest.mark.parametrize("width, scheme", [(1400, "light"), (820, "dark"), (390, "dark")])
def test_axe_finds_nothing(shared, width, scheme):
    page = shared
    page.open(width, scheme)
    page.click("#surprise")
    page.talk("Speak.")
    page.click("[aria-label='Write it again']")
    page.wait(lambda: page.text(".versions") == "2/2" and page.is_written())
    page.click(".pane .token", 0)
    assert page.axe() == []
    page.press(Keys.ESCAPE)
    if width == 390:  # at 1400 the settings stand next to the conversation
        page.click("#settings-button")
        assert page.axe() == []
    if width == 1400:
        page.click("[aria-label='Attention of the last token']")
        page.wait(page.one("#attention-map").is_displayed)
        assert page.axe() == []


def test_nothing_is_asked_of_another_host_and_the_policy_is_kept(shared):
    """Of all that the tests above did. The files name no other host either."""
    shared.open()
    assert {f"{shared.server.url}/v1/completions", f"{shared.server.url}/page.css"} <= shared.asked
    assert [url for url in shared.asked if not url.startswith(("http://127.0.0.1:", "data:", "blob:"))] == []
    said = [entry["message"] for entry in shared.browser.get_log("browser")]
    assert [one for one in said if "Failed to load resource" not in one] == []
    for file in PAGE.iterdir():
        content = file.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert "://" not in content and "innerHTML" not in content and " style=" not in content, file.name
