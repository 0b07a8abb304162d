"""Hands a run to the system's own service manager: a launchd agent or a systemd user unit starts the same command at
every boot, until the run is done; then the run removes that."""

from __future__ import annotations

import getpass
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from flows.context.options import RunOptions
from flows.context.paths import CHECKOUT, TEMPLATES
from flows.runner.run import Run
from nanogpt import durable
from nanogpt.faults import UserError
from nanogpt.spelling import to_be_typed

VARIABLE = "NANOGPT_AT_BOOT"  # set by the service: its name
# What a person has set for this machine's network and caches; a service manager knows nothing of it.
INHERITED = ("PATH", "http_proxy", "HTTP_PROXY", "https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY", "no_proxy",
             "NO_PROXY", "REQUESTS_CA_BUNDLE", "SSL_CERT_FILE", "HF_HOME", "TIKTOKEN_CACHE_DIR")  # fmt: skip
LINGERING = Path("/var/lib/systemd/linger")  # users whose own systemd starts at boot: loginctl(1)
MANAGER_SECONDS = 30.0
Say = Callable[[str], None]


@dataclass(frozen=True)
class Service:
    """What is written for one run, and where."""

    name: str
    file: Path
    template: str

    def text(self, options: RunOptions, more: list[str]) -> str:
        """The file, for the command that continues this run. Raises UserError for what no such file can hold."""
        from jinja2 import Environment, FileSystemLoader, StrictUndefined  # 50 ms, only where something is written

        command = [sys.executable, "-m", "flows.full_run", *options.words, *more]
        values = {
            "run": options.run, "name": self.name, "command": command, "checkout": str(CHECKOUT),
            "environment": {**inherited(), VARIABLE: self.name},
            "output": str(options.workspace / "logs" / options.run / "at_boot.log"),
        }  # fmt: skip
        _check(values)
        is_xml = self.template.endswith(".plist.j2")
        environment = Environment(loader=FileSystemLoader(TEMPLATES), undefined=StrictUndefined, autoescape=is_xml,
                                  trim_blocks=is_xml, keep_trailing_newline=True)  # fmt: skip
        environment.filters.update(word=systemd_word, specifier_free=specifier_free)
        return environment.get_template(self.template).render(values)


def inherited() -> dict[str, str]:
    """Of this process's environment, what the run needs at boot, too."""
    return {"PATH": os.defpath} | {name: os.environ[name] for name in INHERITED if name in os.environ}


def service_of(options: RunOptions) -> Service:
    """This system's service for a run; two workspaces may have runs of the same name."""
    home = Path(os.path.expanduser("~"))  # stays "~" where there is none; Path.home() would raise
    mark = hashlib.sha256(str(options.workspace).encode("utf-8", "surrogateescape")).hexdigest()[:8]
    if sys.platform == "darwin":
        label = f"org.nanogpt-autopilot.{options.run}.{mark}"
        return Service(label, home / "Library/LaunchAgents" / f"{label}.plist", "launchd.plist.j2")
    name = f"nanogpt-autopilot-{options.run}-{mark}.service"
    config = Path(os.environ.get("XDG_CONFIG_HOME") or home / ".config")
    return Service(name, config / "systemd/user" / name, "systemd.service.j2")


def is_installed(options: RunOptions) -> bool:
    return os.path.exists(service_of(options).file)  # False also where it may not be looked at


def install(run: Run, more: list[str], say: Say = print) -> int:
    """Show the service's file, write it, and hand the run over, where the manager answers."""
    service = service_of(run.options)
    if not service.file.is_absolute():
        raise UserError(f"--install-at-boot: {service.file.parent} cannot be found: HOME is not set")
    text = service.text(run.options, more)
    say(f"{service.file}:\n\n{text}")
    run.paths.logs.mkdir(parents=True, exist_ok=True)
    _write_for_oneself(service.file, text)
    is_running = _is_running(run)
    for line in (_load_agent if sys.platform == "darwin" else _enable_unit)(service, is_running):
        say(line)
    if is_running:
        say(f"Run {run.options.run} is running already and is left alone; the next boot starts it again.")
    undo = shlex.join([*shlex.split(run.options.command), "--uninstall"])
    say(f"When the run is done, it removes this. To remove it earlier:\n  {to_be_typed(undo)}")
    run.journal.log(f"installed to start at boot: {service.file}")
    return 0


def uninstall(run: Run, say: Say = print) -> int:
    """Take the run off; one that the manager had started is asked to save and stop."""
    service = service_of(run.options)
    if not is_installed(run.options):
        say(f"Run {run.options.run} does not start at boot: there is no {service.file}")
        return 0
    if sys.platform == "darwin":
        _ask("launchctl", "bootout", f"gui/{os.getuid()}/{service.name}")
    else:
        _ask("systemctl", "--user", "disable", "--now", service.name)
    _remove(service)
    say(f"Removed {service.file}: nothing starts run {run.options.run} at boot. What was done is kept; continue with:\n"
        f"  {to_be_typed(run.options.command)}")  # fmt: skip
    run.journal.log(f"no longer starts at boot: {service.file}")
    return 0


def take_off_when_done(run: Run) -> None:
    """A run that is done has nothing left to do at the next boot. Whoever finished it: the service or a person."""
    if not is_installed(run.options):
        return
    service = service_of(run.options)
    try:
        _remove(service)
    except OSError as error:
        run.journal.log(f"the run is done, but {service.file} cannot be removed ({error.strerror})", "warning")
    else:
        run.journal.log(f"the run is done: it no longer starts at boot ({service.file} is removed)")


def code_for_manager(code: int, is_over: bool = False) -> int:
    """`code`, but 0 for a manager that is not to start the run again: one that is over, and for launchd, which knows no
    limit of restarts, one that failed."""
    return 0 if os.environ.get(VARIABLE) and (is_over or sys.platform == "darwin") else code


def systemd_word(text: str) -> str:
    """`text` as one word of a systemd line: systemd.syntax(7) on quoting, systemd.unit(5) on % (specifiers)."""
    escaped = specifier_free(text).replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def specifier_free(text: str) -> str:
    return text.replace("%", "%%")


def _write_for_oneself(file: Path, text: str) -> None:
    """Nobody else may read it: a proxy's address may hold a password."""
    mask = os.umask(0o077)
    try:
        durable.write_text(file, text)
    finally:
        os.umask(mask)


def _check(values: dict[str, Any]) -> None:
    for text in [values["checkout"], values["output"], *values["environment"].values(), *values["command"]]:
        if any(unicodedata.category(character) in ("Cc", "Cs", "Cn") for character in text):
            raise UserError(f"--install-at-boot: {text!r} holds characters that no service file can hold")
    if values["checkout"].endswith((" ", "\\")):
        raise UserError(f"--install-at-boot: the checkout's path {values['checkout']!r} ends with a blank or backslash")


def _is_running(run: Run) -> bool:
    """Whether some process holds the run now."""
    lock = FileLock(run.paths.state / "lock")
    run.paths.state.mkdir(parents=True, exist_ok=True)
    durable.unblock(run.paths.state / "lock", links=True)
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return True
    lock.release()
    return False


def _enable_unit(service: Service, is_running: bool) -> list[str]:
    """With systemd: enabled, and started unless the run is running; what was done, line by line."""
    enable = ["systemctl", "--user", "enable", *([] if is_running else ["--now"]), service.name]
    trouble = _ask("systemctl", "--user", "daemon-reload") or _ask(*enable)
    if trouble:
        return [f"systemd did not take it ({trouble}). Where your own systemd runs:\n"
                f"  systemctl --user daemon-reload && {shlex.join(enable)}"]  # fmt: skip
    lines = [f"Enabled{'' if is_running else ' and started'}. Look at it with:\n"
             f"  systemctl --user status {service.name}"]  # fmt: skip
    user = getpass.getuser()
    if not (LINGERING / user).exists():
        lines.append(f"It starts when you log in. To start it at boot already:\n  loginctl enable-linger {user}")
    return lines


def _load_agent(service: Service, is_running: bool) -> list[str]:
    """With launchd: loaded now, which starts it, unless the run is running; at each login by being where it is."""
    if is_running:
        return ["launchd starts it at your next login."]
    load = ["launchctl", "bootstrap", f"gui/{os.getuid()}", str(service.file)]
    _ask("launchctl", "bootout", f"gui/{os.getuid()}/{service.name}")  # an earlier one of the same name
    trouble = _ask(*load)
    if trouble:
        return [f"launchd did not take it now ({trouble}). It starts at your next login, or with:\n"
                f"  {shlex.join(load)}"]  # fmt: skip
    return [f"Loaded and started; it starts at each login. Look at it with:\n"
            f"  launchctl print gui/{os.getuid()}/{service.name}"]  # fmt: skip


def _remove(service: Service) -> None:
    """Off the disk, with systemd's link to it; the manager need not answer for that."""
    service.file.unlink(missing_ok=True)
    if sys.platform != "darwin":
        (service.file.parent / "default.target.wants" / service.name).unlink(missing_ok=True)
        _ask("systemctl", "--user", "daemon-reload")
    durable.fsync_folder(service.file.parent)


def _ask(*command: str) -> str:
    """Run a manager's command; "" when it did as asked, else why not."""
    if shutil.which(command[0]) is None:
        return f"there is no {command[0]} here"
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True,
                              timeout=MANAGER_SECONDS)  # fmt: skip
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    return " ".join((done.stderr or done.stdout).split()) or f"{command[0]} ended with code {done.returncode}"
