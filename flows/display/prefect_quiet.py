"""Keeps Prefect off the terminal.

Import after `prefect_server.connect`: Prefect reads its settings when it is imported.
"""

import logging

import prefect.main  # noqa: F401  before `quiet_prefect`: it puts Prefect's console handler on the root logger
from prefect.logging.handlers import PrefectConsoleHandler

from flows.display.protocol import Log


class _OnceHandler(logging.Handler):
    """Passes each kind of warning of Prefect's on once; its reports on our tasks we give ourselves."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._pass_on = log
        self._seen: set[str] = set()

    def emit(self, record: logging.LogRecord) -> None:
        message = " ".join(record.getMessage().split())[:200]
        if record.name.startswith(("prefect.flow_runs", "prefect.task_runs")) or record.msg in self._seen:
            return
        self._seen.add(record.msg)
        self._pass_on(f"Prefect: {message}")


def quiet_prefect(log: Log) -> None:
    """Keep Prefect off the terminal."""
    root = logging.getLogger()
    for console in [handler for handler in root.handlers if isinstance(handler, PrefectConsoleHandler)]:
        root.removeHandler(console)
    once = _OnceHandler(log)
    handlers: dict[str, logging.Handler] = {
        "prefect": once, "prefect._internal": once, "EventsWorker": logging.NullHandler()
    }  # fmt: skip
    for name, handler in handlers.items():
        logger = logging.getLogger(name)
        logger.handlers = [handler]
        logger.propagate = False
