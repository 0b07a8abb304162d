"""A word to the person when a run has ended: on the desktop, to a webhook, or to a command. `notify:` asks for it.

Nothing here can hold or fail the run: each way has a few seconds, and a line in the action log says what came of it.
An address or a command may hold a secret, so no line ever shows more of it than the server's name.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from urllib.parse import urlsplit

from flows.context.options import NotifyConfig

SECONDS = 10.0  # for all of it together; what takes longer is left behind
APPLE_SCRIPT = ("on run argv", "display notification (item 2 of argv) with title (item 1 of argv)", "end run")


@dataclass(frozen=True)
class Ending:
    """How a run ended, as whoever is notified reads it. report: its path, or "" without one."""

    run: str
    state: str  # finished or failed
    headline: str
    report: str = ""

    @property
    def title(self) -> str:
        return f"nanogpt run {self.run} {self.state}"

    @property
    def text(self) -> str:
        return "\n".join(filter(None, [self.title, self.headline, self.report and f"Report: {self.report}"]))


class NotSent(Exception):
    """Why a notification could not be sent, in words without a secret."""


def notify(config: NotifyConfig, ending: Ending, log: Callable[[str], None]) -> list[str]:
    """Send `ending` every way that `config` asks for, at once; what could not be sent, after SECONDS at the latest."""
    ways: dict[str, Callable[[], None]] = {}
    if config.when == "failure" and ending.state != "failed":
        return []
    if config.desktop:
        ways["desktop"] = lambda: _show_on_desktop(ending)
    if webhook := config.webhook:
        ways["webhook"] = lambda: _post(webhook, ending)
    if command := config.command:
        ways["command"] = lambda: _run(command, ending)
    results: dict[str, str] = {}
    deadline = time.monotonic() + SECONDS
    threads = [threading.Thread(target=_try, args=(name, way, results), daemon=True) for name, way in ways.items()]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    outcomes = {name: results.get(name, f"no answer in {SECONDS:g} s") for name in ways}
    for name, problem in outcomes.items():
        log(f"notify.{name}: {problem or 'sent'}")
    return [f"notify.{name}: {problem}" for name, problem in outcomes.items() if problem]


def _try(name: str, way: Callable[[], None], results: dict[str, str]) -> None:
    try:
        way()
    except NotSent as error:
        results[name] = str(error)
    except Exception as error:  # its words may quote the address or the command
        results[name] = type(error).__name__
    else:
        results[name] = ""


def _show_on_desktop(ending: Ending) -> None:
    text = ending.text.partition("\n")[2] or ending.title
    if sys.platform == "darwin":
        lines = [word for line in APPLE_SCRIPT for word in ("-e", line)]
        words = ["osascript", *lines, ending.title, text]
    else:
        words = ["notify-send", "--app-name=nanogpt-autopilot", ending.title, text]
    if shutil.which(words[0]) is None:
        raise NotSent(f"there is no {words[0]} here")
    done = subprocess.run(words, stdin=subprocess.DEVNULL, capture_output=True, timeout=SECONDS)
    if done.returncode:
        raise NotSent(f"{words[0]} ended with code {done.returncode}; is anyone logged in at a desktop?")


def _post(webhook: str, ending: Ending) -> None:
    import requests  # 0.1 s, and only for whoever asks for it

    # text: as Slack and Mattermost read it; content: Discord. A redirect would send it elsewhere.
    body = {"text": ending.text, "content": ending.text, **asdict(ending)}
    server = urlsplit(webhook).hostname
    try:
        answer = requests.post(webhook, json=body, timeout=SECONDS, allow_redirects=False, stream=True)
    except requests.RequestException as error:  # its words quote the address
        raise NotSent(f"{server} cannot be reached ({type(error).__name__})") from None
    with answer:
        if not 200 <= answer.status_code < 300:
            raise NotSent(f"{server} answers {answer.status_code}")


def _run(command: str, ending: Ending) -> None:
    """In a shell, with the ending as JSON on its standard input and as NANOGPT_* in its environment."""
    values = {f"NANOGPT_{name.upper()}": value for name, value in asdict(ending).items()}
    process = subprocess.Popen(
        command, shell=True, env={**os.environ, **values}, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    try:
        process.communicate(json.dumps(asdict(ending)).encode(), timeout=SECONDS - 1)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        raise NotSent(f"the command took longer than {SECONDS - 1:g} s and was ended") from None
    if process.returncode:
        raise NotSent(f"the command ended with code {process.returncode}")
