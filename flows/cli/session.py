"""One start of a run: options, lock, signals, server and display around the flow, and what is said at its end."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from flows.cli import at_boot, hangup, status
from flows.cli.lock import exclusive
from flows.context.options import PHASES, RunOptions, parse
from flows.context.watchdog import Watchdog
from flows.display.protocol import Opening
from flows.machine.disk import Unwritable
from flows.runner.run import Run
from nanogpt import durable
from nanogpt.faults import UserError
from nanogpt.units import duration

STOPPED = 130


def main(argv: list[str], flow: Callable[[Run], None]) -> int:
    return at_boot.code_for_manager(_main(argv, flow))


def _main(argv: list[str], flow: Callable[[Run], None]) -> int:
    try:
        options = parse([word for word in argv if word != "--no-bootstrap"])
        run = Run(options)
        if options.status:
            return status.show(run)
        if options.plan:
            return status.show_plan(run)
        if options.uninstall:
            return at_boot.uninstall(run)
        check_before_writing(options)
        if options.install_at_boot:
            return at_boot.install(run, [word for word in argv if word == "--no-bootstrap"])
        with exclusive(run), hangup.lasting_output(), durable.keep_to(run.paths.workspace):
            code = _run_in_session(run, flow)
            if code == 0 and options.only is None:
                at_boot.take_off_when_done(run)
            return code
    except UserError as error:
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)  # one line, whatever a person typed
        return 2
    except (OSError, Unwritable) as error:  # the run's own folders
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return STOPPED


def check_before_writing(options: RunOptions) -> None:
    """What a person's data must be like. Raises UserError."""
    from nanogpt.data import sources

    data = options.config.data
    sources.check_source(data.source, data.mirrors)
    if data.source == sources.EMBEDDED:
        return
    if data.source in sources.CATALOGUE:
        size = sources.CATALOGUE[data.source].bytes
    else:
        size = sum(path.stat().st_size for path in sources.own_documents(data.source))
    smallest = min(rung.model.block_size for rung in options.rungs)
    least = int((smallest + 2) / min(data.val_fraction, data.test_fraction))
    if size < least:
        raise UserError(
            f"data.source: {data.source} has {size:,} bytes; model.block_size {smallest} with data.val_fraction "
            f"{data.val_fraction:g} needs at least {least:,}: a longer text or a smaller model.block_size"
        )


def _run_in_session(run: Run, flow: Callable[[Run], None]) -> int:
    from flows.display.plain import PlainDisplay
    from flows.display.terminal import OnTerminal, Terminal

    _quiet_environment()
    run.begin()
    labels = [f"{number} {name.capitalize()}" for number, name in enumerate(PHASES, 1)]
    terminal = Terminal(Console(), labels, _heading(run), run.clock, run.log.write)
    run.display = OnTerminal(PlainDisplay(), terminal, run.log.write)
    run.watchdog = Watchdog(run.log.write)
    with hangup.heeded(run.config.on_hangup, run.hung_up):
        stopped = _go_through(run, flow, terminal)
        return _farewell(run, stopped)


def _go_through(run: Run, flow: Callable[[Run], None], terminal) -> bool:
    """The flow with what it needs around it; whether a person stopped it."""
    from flows.display.opening import open_display
    from flows.display.terminal import OnTerminal

    options = run.options
    handler = signal.signal(signal.SIGTERM, hangup.interrupt)
    server, stopped = None, False
    try:
        run.surroundings.begin()
        server = _server(run, terminal) if options.ui else None
        run.display = OnTerminal(open_display(server, run.log.write), terminal, run.log.write)
        run.display.flow(lambda: flow(run), _opening(run))
    except KeyboardInterrupt:
        stopped = True
    finally:
        signal.signal(signal.SIGTERM, handler)
        run.surroundings.end()
        terminal.close()
        run.worker.close(kill=stopped)
        run.watchdog.close()
        run.end(stopped)
        if server is not None:
            server.close()
    return stopped


def _opening(run: Run) -> Opening:
    """What the pages show of this start."""
    options, config = run.options, run.config
    parameters = {
        "budget": _budget(run), "data": config.data.source, "models": [rung.name for rung in options.rungs],
        "workspace": str(options.workspace), "only": options.only, "redo": list(options.redo), "fresh": options.fresh,
        "command": options.command,
    }  # fmt: skip
    name = f"{options.run}, {_budget(run)}, {time.strftime('%d %b %H:%M')}"
    main_thread = threading.main_thread().ident or 0

    def cancel() -> None:
        run.tell("cancelled on its page: saved, then stopped", "warning")
        signal.pthread_kill(main_thread, signal.SIGTERM)

    return Opening(
        options.run, name, [f"run:{options.run}"], {key: value for key, value in parameters.items() if value}, cancel
    )


def _server(run: Run, terminal) -> object | None:
    from flows.display.prefect_process import healthy_record
    from flows.display.prefect_server import connect

    def log(line: str) -> None:
        run.log.write(line)

    if healthy_record(run.paths.prefect_home) is None and _nothing_to_do(run):
        terminal.message("All is done already: no Prefect server was running, and none is started for that.")
        return None
    server = connect(run.paths.prefect_home, log, run.config.port)
    if server is None:
        terminal.message("No Prefect server: the run goes on without its pages (why: the action log).", "warning")
        return None
    run.prefect_url = server.url
    terminal.message(f"Pages of this run: {server.url}")
    server.mark_crashed(f"run:{run.options.run}")
    return server


def _nothing_to_do(run: Run) -> bool:
    return all(state == "kept" for _, state, _ in status.decisions(run))


def _heading(run: Run) -> str:
    return f"nanogpt-autopilot  run {run.options.run}  budget {_budget(run)}"


def _budget(run: Run) -> str:
    return duration(run.config.budget).removesuffix(" 00 s").removesuffix(" 00 min")


def _quiet_environment() -> None:
    """Set before any child starts: no telemetry, all cores for the tokenizers."""
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def _farewell(run: Run, stopped: bool) -> int:
    """What a person reads last; the exit code."""
    if stopped:
        print(f"Stopped. What was done is kept; go on with:\n  {run.options.command}")
        return STOPPED
    troubles = [record for record in run.phases if record.status in ("failed", "blocked")]
    report = run.paths.reports / "training_report.html"
    for record in troubles:
        print(f"{record.number} {record.title} {record.status}: {record.cause}")
    if report.exists():
        print(f"Report: {_near(report)}")
    if run.prefect_url:
        print(f"Pages:  {run.prefect_url}")
    if troubles:
        print(f"When the cause is mended, go on with:\n  {run.options.command}")
    return 1 if troubles else 0


def _near(path: Path) -> str:
    relative = os.path.relpath(path)
    return relative if not relative.startswith("..") else str(path)
