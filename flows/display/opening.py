"""Which display a run gets: Prefect's pages where a server is wanted, else none."""

from flows.display.plain import PlainDisplay
from flows.display.prefect_display import Connect, PrefectDisplay
from flows.display.protocol import Display, Log


def open_display(connect: Connect | None, log: Log) -> Display:
    """The display on the server that `connect` gives; what Prefect complains of goes to `log`."""
    return PlainDisplay() if connect is None else PrefectDisplay(connect, log)
