"""The report's page in a headless Chromium: sorted, copied, zoomed and printed; whole without JavaScript too.

One browser for all of it. Where there is no Chromium, nothing here runs.
"""

import base64
import re
import shutil
from pathlib import Path

import pytest

from flows.report import documents
from tests.flows.report import report_facts

webdriver = pytest.importorskip("selenium.webdriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.xdist_group("documents"),
    pytest.mark.skipif(not (shutil.which("chromium") and shutil.which("chromedriver")), reason="no chromium here"),
]
FIRST_SCREEN = ["Did it work?", "How good is it?", "What did it cost?", "What went wrong?", "What next?"]


@pytest.fixture(scope="module")
def report(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    facts = report_facts.complete_facts(folder)
    documents.render(facts, folder, report_facts.draw_figures(facts, folder / "figures"))
    return folder / "training_report.html"


@pytest.fixture(scope="module")
def browser(report):
    options = webdriver.ChromeOptions()
    options.binary_location = str(shutil.which("chromium"))
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    browser = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        browser.get(report.as_uri())
        yield browser
    finally:
        browser.quit()


def resize(browser, width: int, height: int) -> None:
    size = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", size)


@pytest.mark.parametrize("width, height", [(1400, 900), (390, 844)])
def test_no_width_makes_the_page_scroll_sideways_and_a_desk_shows_all_five_answers_at_once(browser, width, height):
    resize(browser, width, height)
    found = browser.execute_script(
        "return [document.documentElement.scrollWidth, [...document.querySelectorAll('.first-screen p')]"
        ".map((p) => [p.querySelector('strong')?.textContent, p.getBoundingClientRect().bottom + scrollY])]"
    )
    assert found[0] == width
    answers = [(question, bottom) for question, bottom in found[1] if question]
    assert [question for question, _ in answers] == FIRST_SCREEN
    assert width < 500 or max(bottom for _, bottom in answers) < height


def test_a_table_is_sorted_by_what_its_figures_mean(browser):
    resize(browser, 1400, 900)
    script = """
        const table = [...document.querySelectorAll('main table')].find((t) => t.tHead.textContent.includes('Actual'));
        const header = [...table.tHead.rows[0].cells].findIndex((cell) => cell.textContent.includes('Actual'));
        const cells = () => [...table.tBodies[0].rows].map((row) => row.cells[header].textContent.trim());
        const button = table.tHead.rows[0].cells[header].querySelector('button');
        button.click(); const up = cells();
        button.click(); return [up, cells()];
    """
    rising, falling = browser.execute_script(script)
    assert rising == ["4.1 s", "9.2 s", "11.8 s", "12.3 s", "19.6 s", "44.5 s", "7 min 11 s", "–"]
    assert falling == [*reversed(rising[:-1]), "–"]  # what is not known stays last


def test_commands_are_copied_as_they_are(browser, report):
    browser.execute_cdp_cmd(
        "Browser.grantPermissions", {"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]}
    )
    script = """
        const done = arguments[0], taken = [];
        navigator.clipboard.writeText = async (text) => { taken.push(text); };
        document.querySelectorAll('.first-screen .copy').forEach((button) => button.click());
        setTimeout(() => done(taken), 50);
    """
    copied = browser.execute_async_script(script)
    assert copied[0].endswith("chat /home/ada/nanogpt-autopilot/exports/night/tiny")
    assert copied[1].startswith("python3 -m flows.full_run --run night --budget")


def test_a_curve_is_zoomed_by_dragging_and_reset(browser):
    script = """
        const figure = document.querySelector('[data-chart="comparison"]');
        figure.querySelector('.toggle').click();
        const plot = figure.querySelector('.explore > svg'), box = plot.getBoundingClientRect();
        const ticks = () => [...plot.querySelectorAll('.tick')].map((tick) => tick.textContent);
        const at = (kind, share) => plot.dispatchEvent(new PointerEvent(kind,
            { clientX: box.left + share * box.width, clientY: box.top + 50, pointerId: 1, bubbles: true }));
        plot.setPointerCapture = () => {};
        const whole = ticks();
        at('pointerdown', 0.5); at('pointermove', 0.6); at('pointerup', 0.7);
        const zoomed = ticks();
        at('pointermove', 0.5);
        const said = figure.querySelector('.readout').textContent;
        plot.dispatchEvent(new KeyboardEvent('keydown', { key: '0', bubbles: true }));
        return [whole, zoomed, said, ticks(), figure.querySelectorAll('.explore > svg path').length];
    """
    whole, zoomed, said, reset, lines = browser.execute_script(script)
    assert zoomed != whole == reset and lines == 2
    assert re.match(r"tokens [\d.]+ M: micro [\d.]+ · tiny [\d.]+$", said)


def test_nothing_was_refused_and_nothing_asked_of_another_host(browser):
    assert [row for row in browser.get_log("browser") if row["level"] in ("SEVERE", "WARNING")] == []
    assert browser.execute_script("return performance.getEntriesByType('resource').map((one) => one.name)") == []


def test_paper_has_the_folded_parts_too(browser):
    pages = printed_pages(browser)
    folded = browser.execute_script(
        "const parts = document.querySelectorAll('main details.part:not([open])');"
        "parts.forEach((part) => part.remove()); return parts.length"
    )
    assert folded > 3 and printed_pages(browser) < pages


def printed_pages(browser) -> int:
    pdf = base64.b64decode(browser.execute_cdp_cmd("Page.printToPDF", {"preferCSSPageSize": True})["data"])
    return len(re.findall(rb"/Type\s*/Page\b", pdf))


def test_without_javascript_everything_is_there(browser, report):
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    browser.get(report.as_uri())
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    counts = ("button:not([hidden])", ".figure img", "details.part")
    buttons, figures, parts = [
        browser.execute_script("return document.querySelectorAll(arguments[0]).length", wanted) for wanted in counts
    ]
    assert buttons == 0 and figures >= 8 and parts >= 18
