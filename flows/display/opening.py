"""Which display a run gets: Prefect's pages where there is a server, else none."""

from flows.display.plain import PlainDisplay
from flows.display.prefect_server import Server
from flows.display.protocol import Display, Log


def open_display(server: Server | None, log: Log) -> Display:
    """The display on `server`; what Prefect complains of goes to `log`."""
    if server is None:
        return PlainDisplay()
    # Prefect reads its settings when it is imported, which `connect` has set by now; importing it takes 1.5 s.
    from flows.display.prefect_display import PrefectDisplay

    return PrefectDisplay(server, log)
