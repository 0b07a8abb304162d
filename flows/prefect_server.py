"""python -m flows.prefect_server stop [HOME]: end the Prefect server that a run leaves behind for its pages."""

import sys
from pathlib import Path

from flows.display.prefect_server import HOME_IN_CHECKOUT, stop


def main(arguments: list[str]) -> int:
    if arguments[:1] == ["stop"] and len(arguments) <= 2:
        print(stop(Path(arguments[1]) if arguments[1:] else HOME_IN_CHECKOUT))
        return 0
    print("usage: python -m flows.prefect_server stop [HOME]", file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
