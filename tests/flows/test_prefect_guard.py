"""Prefect's API is for its own pages and this project's client; no other page that a browser has open can use it."""

import asyncio
import http.client
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import IntegrityError

from flows.display import prefect_server
from flows.display.prefect_process import Record, healthy_record
from tests.conftest import free_port

pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("prefect_guard")]
JSON = "application/json"
SECRET = "a flow run of somebody"
Answer = tuple[int, dict[str, str], bytes]  # status, headers, content


class Server:
    """The server of a workspace, asked as any program could ask it."""

    def __init__(self, record: Record) -> None:
        self.pid, self.port, self.own = record.pid, record.port, f"http://127.0.0.1:{record.port}"

    def ask(
        self, method: str, path: str, body: object = None, host: str | None = None, origin: str | None = None,
        kind: str = JSON,
    ) -> Answer:  # fmt: skip
        """What it answers; 503 says that SQLite was locked by another writer, which Prefect's own client repeats."""
        headers = {"Host": host or f"127.0.0.1:{self.port}", "Content-Type": kind}
        headers |= {"Origin": origin} if origin else {}
        content = None if body is None else json.dumps(body)
        answer, until = self._answer(method, path, content, headers), time.monotonic() + 60
        while answer[0] == 503 and time.monotonic() < until:
            time.sleep(0.1)
            answer = self._answer(method, path, content, headers)
        return answer

    def _answer(self, method: str, path: str, content: str | None, headers: dict[str, str]) -> Answer:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request(method, path, content, headers)
            response = connection.getresponse()
            return response.status, {key.lower(): value for key, value in response.getheaders()}, response.read()
        finally:
            connection.close()

    def times_awake(self) -> int:
        """How often its threads have gone to sleep."""
        said = [status.read_text() for status in Path(f"/proc/{self.pid}/task").glob("*/status")]
        return sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in said)

    def state_of(self, flow_run: str) -> str:
        status, _, answer = self.ask("GET", f"/api/flow_runs/{flow_run}")
        return json.loads(answer)["state"]["type"] if status == 200 else str(status)

    def handshake(self, origin: str | None, host: str | None = None) -> int:
        """The status that opening a websocket is answered with; 101 is yes."""
        headers = {"Host": host or f"127.0.0.1:{self.port}", "Upgrade": "websocket", "Connection": "Upgrade",
                   "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==", "Sec-WebSocket-Version": "13"}  # fmt: skip
        headers |= {"Origin": origin} if origin else {}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        try:
            connection.request("GET", "/api/events/out", headers=headers)
            return connection.getresponse().status
        finally:
            connection.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory) -> Iterator[Server]:
    before = dict(os.environ)
    home = tmp_path_factory.mktemp("prefect")
    connected = prefect_server.connect(home, print, free_port())
    assert connected is not None
    connected.close()
    yield Server(connected.record)
    prefect_server.stop(home)
    os.environ.clear()
    os.environ.update(before)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="nothing says how often a process wakes")
def test_a_server_that_nobody_asks_sleeps(server):
    """Prefect's own wakes 30 times a second, next to a training that wants every core."""
    seconds = 4.0
    before = server.times_awake()
    time.sleep(seconds)
    assert server.times_awake() - before < 5 * seconds


@pytest.fixture
def flow_run(server) -> str:
    _, _, flow = server.ask("POST", "/api/flows/", {"name": "secret"}, origin=server.own)
    wanted = {"name": SECRET, "flow_id": json.loads(flow)["id"], "state": {"type": "RUNNING"}}
    status, _, made = server.ask("POST", "/api/flow_runs/", wanted, origin=server.own)
    assert status == 201
    return json.loads(made)["id"]


FOREIGN = ["https://evil.test", "http://127.0.0.1:1", "null", "http://localhost", "http://127.0.0.1:{port}.evil.test"]


@pytest.mark.parametrize("origin", FOREIGN)
def test_another_page_can_neither_read_cancel_nor_delete(server, flow_run, origin):
    origin = origin.format(port=server.port)
    answers = [
        server.ask("POST", "/api/flow_runs/filter", {}, origin=origin),
        server.ask("GET", f"/api/flow_runs/{flow_run}", origin=origin),
        server.ask("POST", f"/api/flow_runs/{flow_run}/set_state", {"state": {"type": "CANCELLED"}}, origin=origin),
        server.ask("DELETE", f"/api/flow_runs/{flow_run}", origin=origin),
        server.ask("OPTIONS", f"/api/flow_runs/{flow_run}", origin=origin),
    ]
    for status, headers, answer in answers:
        assert status == 403 and SECRET.encode() not in answer
        assert "access-control-allow-origin" not in headers
    assert server.state_of(flow_run) == "RUNNING"


@pytest.mark.parametrize("host", ["evil.test", "evil.test:{port}", "127.0.0.1", "127.0.0.1:1", "localhost.evil:{port}"])
def test_a_name_that_was_bound_anew_to_this_machine_is_refused(server, flow_run, host):
    """DNS rebinding: the browser takes the attacker's page and this server for one."""
    host = host.format(port=server.port)
    for method, path in ("GET", f"/api/flow_runs/{flow_run}"), ("POST", "/api/flow_runs/filter"), ("GET", "/"):
        status, _, answer = server.ask(method, path, {}, host=host, origin=f"http://{host}")
        assert status == 403 and SECRET.encode() not in answer
        assert server.ask(method, path, {}, host=host)[0] == 403
    assert server.handshake(server.own, host) == 403


@pytest.mark.parametrize("kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", JSON])
def test_a_simple_request_that_needs_no_preflight_changes_nothing(server, flow_run, kind):
    cancel = {"state": {"type": "CANCELLED"}}
    for origin in ("https://evil.test", None):
        status, _, _ = server.ask("POST", f"/api/flow_runs/{flow_run}/set_state", cancel, origin=origin, kind=kind)
        assert status == 403
    assert server.state_of(flow_run) == "RUNNING"


def test_websockets_are_for_its_own_pages(server):
    assert server.handshake(server.own) == 101
    assert [server.handshake(origin) for origin in ("https://evil.test", "null", None)] == [403, 403, 403]


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_its_own_pages_and_a_person_at_the_address_bar_are_served(server, flow_run, name):
    host = f"{name}:{server.port}"
    status, _, page = server.ask("GET", "/", host=host)
    assert status == 200 and b"<html" in page
    status, _, found = server.ask("POST", "/api/flow_runs/filter", {}, host=host, origin=f"http://{host.lower()}")
    assert status == 200 and SECRET.encode() in found


def test_its_own_pages_cancel_and_delete(server, flow_run):
    """Prefect leaves a chore behind for each, which nobody does here."""
    cancel = {"state": {"type": "CANCELLING"}}
    status, _, _ = server.ask("POST", f"/api/flow_runs/{flow_run}/set_state", cancel, origin=server.own)
    assert status == 201 and server.state_of(flow_run) == "CANCELLING"
    assert server.ask("DELETE", f"/api/flow_runs/{flow_run}", origin=server.own)[0] == 204
    assert server.state_of(flow_run) == "404"


def test_a_server_of_an_earlier_version_is_replaced(tmp_path, monkeypatch):
    """It has no guard."""
    ended: list[Record] = []
    record = Record(os.getpid(), 4200, "http://127.0.0.1:4200", 0.0)
    monkeypatch.setattr("flows.display.prefect_process.read_record", lambda home: record)
    monkeypatch.setattr("flows.display.prefect_process.is_running", lambda record: True)
    monkeypatch.setattr("flows.display.prefect_process.end", ended.append)
    assert healthy_record(tmp_path) is None and ended == [record]


# ------------------------------------------------------------------------------------------- in a real browser


def eventually(condition: Callable[[], bool], seconds: float = 60) -> bool:
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.2)
    return condition()


def test_a_deleted_flow_run_costs_no_other_run_its_tasks(monkeypatch):
    """Prefect records tasks in batches: one of a deleted flow run has no row that it could point to."""
    from flows.display import prefect_guard  # Prefect's server: 2 s

    recorded: list[str] = []

    async def record_together(events: list[str]) -> None:
        if "deleted" in events:
            raise IntegrityError("insert", {}, Exception("FOREIGN KEY constraint failed"))
        recorded.extend(events)

    monkeypatch.setattr(prefect_guard, "record_together", record_together)
    asyncio.run(prefect_guard.record(["first", "deleted", "last"]))
    assert recorded == ["first", "last"]


@pytest.fixture(scope="module")
def browser() -> Iterator[object]:
    webdriver = pytest.importorskip("selenium.webdriver")
    if not (shutil.which("chromium") and shutil.which("chromedriver")):
        pytest.skip("no chromium here")
    options = webdriver.ChromeOptions()
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--window-size=1400,1000"):
        options.add_argument(argument)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


def test_the_pages_work_in_a_browser_without_a_login(server, flow_run, browser):
    for name in ("127.0.0.1", "localhost"):
        browser.get(f"http://{name}:{server.port}/runs/flow-run/{flow_run}")
        assert eventually(lambda: SECRET in browser.page_source), browser.page_source[:2000]


ATTACK = """
<script>
const done = {};
const api = "http://127.0.0.1:%(port)d/api";
const cancel = JSON.stringify({state: {type: "CANCELLED"}});
async function attempt(name, request) {
  try { done[name] = (await (await request()).text()).slice(0, 200); } catch (error) { done[name] = "refused"; }
}
(async () => {
  await attempt("read", () => fetch(api + "/flow_runs/%(flow_run)s"));
  await attempt("list", () => fetch(api + "/flow_runs/filter", {method: "POST", body: "{}",
    headers: {"content-type": "application/json"}}));
  await attempt("cancel", () => fetch(api + "/flow_runs/%(flow_run)s/set_state",
    {method: "POST", body: cancel, headers: {"content-type": "text/plain"}, mode: "no-cors"}));
  await attempt("delete", () => fetch(api + "/flow_runs/%(flow_run)s", {method: "DELETE"}));
  await new Promise(next => {
    const socket = new WebSocket("ws://127.0.0.1:%(port)d/api/events/out");
    socket.onopen = () => { done.socket = "open"; next(); };
    socket.onerror = () => { done.socket = "refused"; next(); };
  });
  document.title = JSON.stringify(done);
})();
</script>
"""


def test_a_page_of_somebody_else_in_the_same_browser_gets_nothing(server, flow_run, browser, tmp_path: Path):
    page = tmp_path / "attack.html"
    page.write_text(ATTACK % {"port": server.port, "flow_run": flow_run})
    browser.get(f"file://{page}")  # its origin is "null"
    assert eventually(lambda: "socket" in browser.title, 30), browser.title
    assert json.loads(browser.title) == {
        "read": "refused", "list": "refused", "cancel": "", "delete": "refused", "socket": "refused"
    }  # fmt: skip
    assert server.state_of(flow_run) == "RUNNING"
