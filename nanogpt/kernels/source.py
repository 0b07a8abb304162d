"""Where the kernels are written, without torch: whoever starts early may have them built before they are needed."""

from pathlib import Path

from nanogpt.native.c_source import CSource

SOURCE = CSource(Path(__file__).with_name("c") / "kernels.c", "kernels", seconds=9)
