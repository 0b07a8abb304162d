"""One start of a run: options, lock, signals, server and display around the flow, and what is said at its end."""

from __future__ import annotations

import gc
import os
import re
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import NoReturn

from rich.console import Console

from flows.cli import at_boot, hangup, notification, status
from flows.cli.command_line import parse
from flows.cli.farewell import farewell, wrapped
from flows.cli.lock import exclusive
from flows.cli.notification import Ending
from flows.context import stop_signal
from flows.context.options import RunOptions
from flows.context.paths import Paths
from flows.display.opening import open_display
from flows.display.plain import PlainDisplay
from flows.display.prefect_display import Connect
from flows.display.prefect_server import Server, connect, url_of_running
from flows.display.protocol import Opening
from flows.display.terminal import OnTerminal, Terminal
from flows.machine.disk import Unwritable
from flows.planning import texts
from flows.report import commands
from flows.runner.assembly import assemble
from flows.runner.run import Phase, Run
from flows.runner.sessions import read_session
from nanogpt import durable
from nanogpt.faults import UserError
from nanogpt.interrupts import STOPPED
from nanogpt.printable import show_mistake
from nanogpt.spelling import to_be_typed
from nanogpt.units import chosen_duration


def main(argv: list[str], phases: Sequence[Phase], flow: Callable[[Run], None]) -> int:
    def asked() -> tuple[RunOptions, Sequence[Phase]]:
        return parse([word for word in argv if word != "--no-bootstrap"], phases), phases

    return at_boot.code_for_manager(start(asked, flow, farewell, "--no-bootstrap" in argv))


def start(
    asked: Callable[[], tuple[RunOptions, Sequence[Phase]]],
    flow: Callable[[Run], None],
    last_words: Callable[[Run], list[str]],
    is_bare: bool = False,
) -> int:
    """Do what `asked` says of a run; the exit code. What it raises as UserError is a person's mistake.

    `last_words`: the lines for a run that ended by itself. `is_bare`: started with --no-bootstrap.
    """
    try:
        options, phases = asked()
        require_own_run(options)
        run = assemble(options, phases)
        if options.remembered:
            print(f"Run {options.run} continues with the options of before: {options.remembered}", file=sys.stderr)
        if options.status:
            return status.show(run)
        if options.plan:
            return status.show_plan(run)
        if options.uninstall:
            return at_boot.uninstall(run)
        check_before_writing(options)
        if options.install_at_boot:
            return at_boot.install(run, ["--no-bootstrap"] if is_bare else [])
        with exclusive(run.paths, options.run), hangup.lasting_output(), durable.keep_to(run.paths.workspace):
            code = _run_in_session(run, flow, last_words)
            if code != STOPPED and options.only is None and run.phase_runner.is_over():
                at_boot.take_off_when_done(run)
                code = at_boot.code_for_manager(code, is_over=True)
            return code
    except UserError as error:
        show_mistake("error", error)
        return 2
    except (OSError, Unwritable) as error:  # the run's own folders
        show_mistake("error", error)
        return 1
    except KeyboardInterrupt:
        stop_signal.forget()
        return STOPPED


def leave(code: int) -> NoReturn:
    """End the process. Python collects garbage once more before, through all modules of Prefect: 0.44 s, or 0.03 where
    nothing is looked at again."""
    gc.freeze()
    sys.exit(code)


def require_own_run(options: RunOptions) -> None:
    """Raise UserError where the run's name is that of a run of another program: each would take the other's records
    and files for its own, and --fresh would set them aside."""
    paths = Paths(options.workspace, options.run)
    session = read_session(paths.state)
    programs = re.findall(r"^python3 -m (flows\.\w+)", session.command) if session else []
    if programs and programs != [options.program]:
        raise UserError(
            f"--run {options.run}: is a run of {programs[0]} in {options.workspace}; choose another --run NAME"
        )


def check_before_writing(options: RunOptions) -> None:
    """What a person's data must be like. Raises UserError."""
    # numpy, requests and tiktoken: 0.2 s, which --status does not need
    from nanogpt.sources import catalogue, fetching
    from nanogpt.sources.formats.family import Wanted
    from nanogpt.sources.kinds import kind_of
    from nanogpt.tokenizers import making

    data = options.config.data
    for source in [catalogue.EMBEDDED] if texts.is_open(data) else data.sources:
        fetching.check_source(source, data.mirrors, Wanted.of(data))
    making.check_kind(data.tokenizer)
    if texts.is_open(data) or data.mixture or kind_of(data.source) in ("embedded", "hub"):
        return
    size = texts.expected_bytes(data)
    smallest = min(config.model.block_size for config in options.candidates)
    least = int((smallest + 2) / min(data.val_fraction, data.test_fraction))
    if size < least:
        raise UserError(
            f"data.source: {data.source} has {size:,} bytes; model.block_size {smallest} with data.val_fraction "
            f"{data.val_fraction:g} needs at least {least:,}: a longer text or a smaller model.block_size"
        )


def _run_in_session(run: Run, flow: Callable[[Run], None], last_words: Callable[[Run], list[str]]) -> int:
    _quiet_environment()
    run.session.begin()
    labels = [record.label for record in run.phase_runner.records]
    terminal = Terminal(Console(), labels, _heading(run), run.clock, run.journal.log)
    run.journal.display = OnTerminal(PlainDisplay(), terminal, run.journal.log)
    run.watchdog.start()
    with hangup.handle_hangup(run.config.on_hangup, lambda: _record_hangup(run)):
        try:
            stopped = _run_flow(run, flow, terminal)
        except Exception as error:
            _notify(run, "failed", " ".join(str(error).split()))
            raise
        code = _farewell(run, stopped, last_words)
        if not stopped:
            _notify(run, "failed" if code else "finished", _headline(run, last_words))
        return code


def _run_flow(run: Run, flow: Callable[[Run], None], terminal: Terminal) -> bool:
    """The flow with what it needs around it; whether a person stopped it."""
    handlers = {number: signal.signal(number, stop_signal.interrupt) for number in _stop_signals()}
    stopped = False
    try:
        run.conditions.begin(continues=run.session.number > 1)
        terminal.message(
            f"Watch it in another terminal: {commands.watch(run.paths.checkpoints)} (--page: in a browser)"
        )
        display = open_display(_connection(run, terminal), run.journal.log)
        run.journal.display = OnTerminal(display, terminal, run.journal.log)
        run.journal.display.flow(lambda: flow(run), _opening(run))
    except KeyboardInterrupt:
        stopped = True
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        stop_signal.forget()
        run.conditions.end()
        terminal.close()
        run.worker.close(kill=True)  # it has nothing to do; by itself it takes 0.5 s to end
        run.watchdog.close()
        run.session.end(stopped)
    return stopped


def _stop_signals() -> list[signal.Signals]:
    """SIGTERM, and SIGINT but where whoever started the run has it ignored, as a shell does for a script's `&`."""
    is_ctrl_c = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    return [signal.SIGTERM, signal.SIGINT] if is_ctrl_c else [signal.SIGTERM]


def _opening(run: Run) -> Opening:
    """What the pages show of this start."""
    options, config = run.options, run.config
    parameters = {
        "budget": chosen_duration(run.config.budget),
        "data": config.data.source,
        "models": options.candidate_names,
        "workspace": str(options.workspace),
        "only": options.only,
        "redo": list(options.redo),
        "fresh": options.fresh,
        "command": options.command,
    }
    name = f"{options.run}, {chosen_duration(run.config.budget)}, {time.strftime('%d %b %H:%M')}"
    main_thread = threading.main_thread().ident or 0

    def cancel() -> None:
        run.journal.message("cancelled on its page: saved, then stopped", "warning")
        signal.pthread_kill(main_thread, signal.SIGTERM)

    return Opening(
        options.run, name, [f"run:{options.run}"], {key: value for key, value in parameters.items() if value}, cancel
    )


def _connection(run: Run, terminal: Terminal) -> Connect | None:
    """What gives the run its server, on a thread of its own; None where no pages are wanted."""
    if not run.options.ui:
        return None
    if not run.session.follows_a_kill and all(row.state == "kept" for row in status.decisions(run)):
        terminal.message("Nothing is left to do: this start has no page of its own.")
        run.session.prefect_url = url_of_running(run.paths.prefect_home)
        return None

    why = f"why: {commands.near(run.paths.logs / 'automation_log.txt')}"

    def lost() -> None:
        run.session.prefect_url = None
        terminal.message(f"The Prefect server is gone: the run continues without its pages ({why}).", "warning")

    def connected(closing: threading.Event) -> Server | None:
        server = connect(run.paths.prefect_home, run.journal.log, run.config.port, closing)
        if server is None:
            if not closing.is_set():
                terminal.message(f"No Prefect server: the run continues without its pages ({why}).", "warning")
            return None
        server.on_lost = lost
        run.session.prefect_url = server.url
        terminal.message(f"Pages of this run: {server.url}")
        server.mark_crashed(f"run:{run.options.run}")
        return server

    return connected


def _record_hangup(run: Run) -> None:
    """The terminal was closed, and the run continues without it."""
    step, evidence = run.phase_runner.running(), "the terminal was closed (SIGHUP)"
    run.journal.record(step, "hangup", evidence, "continued without it", "nothing was lost")


def _heading(run: Run) -> str:
    return f"nanogpt-autopilot  run {run.options.run}  budget {chosen_duration(run.config.budget)}"


def _quiet_environment() -> None:
    """Set before any child or thread starts: no telemetry, all cores for the tokenizers, no Prefect but our own."""
    for name in [name for name in os.environ if name.startswith("PREFECT_")]:
        del os.environ[name]
    os.environ.setdefault("DO_NOT_TRACK", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")


def _notify(run: Run, state: str, headline: str) -> None:
    report = str(run.paths.report) if run.paths.report.exists() else ""
    ending = Ending(run.options.run, state, headline, report)
    for problem in notification.notify(run.config.notify, ending, run.journal.log):
        print(f"warning: {problem}", file=sys.stderr)


def _headline(run: Run, last_words: Callable[[Run], list[str]]) -> str:
    """What failed first, or how good the model is."""
    for record in run.phase_runner.records:
        if record.has_failed:
            return f"{record.label} {record.status}: {record.cause}"
    return next(iter(last_words(run)), "")


def _farewell(run: Run, stopped: bool, last_words: Callable[[Run], list[str]]) -> int:
    """Print what a person reads last; the exit code."""
    if stopped:
        print(f"Stopped. What was done is kept; continue with:\n  {to_be_typed(run.options.command)}")
        return STOPPED
    width = shutil.get_terminal_size().columns if sys.stdout.isatty() else 0
    for line in last_words(run):
        print(wrapped(line, width))
    return 1 if any(record.has_failed for record in run.phase_runner.records) else 0
