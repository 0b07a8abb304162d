"""A small, fast, hackable GPT: import it, read it in an afternoon, use it without any orchestrator."""

import os

__version__ = "0.2.0"

# Threads that wait for each other spin this long before they sleep. libgomp's default, 300,000, costs nothing on an
# idle machine, but next to any other busy process a step of the 0.8 M model took 0.2 to 1.3 s; with 5,000 it takes
# 0.04 to 0.15 s, and 32 ms alone either way (two cores). libgomp reads it when torch is loaded, so it is set here.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")
# With fewer threads than it counts on, oneDNN leaves parts of a product out and says nothing; with less stack than a
# thread of nanogpt.kernels needs, the process ends. device.threads is the setting for the number of threads.
for _name in ("OMP_THREAD_LIMIT", "OMP_DYNAMIC", "OMP_STACKSIZE", "GOMP_STACKSIZE"):
    os.environ.pop(_name, None)
# MPS's defaults let it take 1.7 times the working set, and the machine swaps before torch says out of memory.
os.environ.setdefault("PYTORCH_MPS_HIGH_WATERMARK_RATIO", "1.0")
os.environ.setdefault("PYTORCH_MPS_LOW_WATERMARK_RATIO", "0.8")
