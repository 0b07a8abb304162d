"""Faults for a victim process, injected from outside: Python imports this file at its start when it is on PYTHONPATH.

    environment = {**os.environ, "PYTHONPATH": str(injected folder), "FAULT": json.dumps(fault or [fault, ...])}
    python -m flows.full_run ...        # the real command; nothing in the product knows of this folder

Without FAULT nothing happens. With it, each process of the command looks which faults are its own and waits for the
modules that they need ("torch", "nanogpt.training.trainer", ...): the start of the autopilot, which never imports
torch, is not slowed.

A fault is a mapping. `what` happens:
    "raise"     `error`: a name of wordings.ERRORS ("mps out of memory", "MemoryError", ...), or `type` and `says`
    "abort"     `says` on stderr (default: Metal's assertion), then abort(): SIGABRT
    "hang"      `how`: "asleep" (in Python, for `seconds` or for ever: handlers of signals run), "waiting" (default;
                in C, on a lock that never opens, as in torch.mps.synchronize: other threads live, no Python handler
                runs, SIGKILL ends it), "holding" (the same with the interpreter's lock: no thread lives)
    "print"     `says` on stderr (default: the command-buffer line)
    "wrong"     from now on each result of `operator` is multiplied by 1 + `by` (default -1: zeros); no error is raised
    "gradients" `value` (default "nan", or "inf", or a factor) is put into the gradients of the step before their norm
    "signal"    `signal`: "SIGKILL" (default), "SIGSEGV", "SIGTERM", ... to itself
    "exit"      os._exit(`code`), default 1
    "exhaust"   `of`: "memory" (default; `bytes` are taken and kept, as far as they are to be had, then MemoryError
                where they are not) or "files" (descriptors, until the system has no more)
    "compiler"  torch.compile's result raises at its first call
    "replace"   `module`, `name`, `value`: a constant of the product, as soon as its module is there
    "pretend"   `device`: "mps" or "cuda": an accelerator that is not there, see pretended_device.py. `bytes`: all that
                it can hold, beyond it it is out of memory in its own words.
When: all that is named must be true.
    process     "trainer" (default; of "pretend" and "compiler": every one that imports torch; of "replace":
                "autopilot"), "worker", "autopilot" (orchestrator), "server" (Prefect's), "any"; a list of them
    operator    an aten operator, "aten::mm": in each of its calls, before it computes
    at          without operator: "step" (default; the start of a training step), "update" (its end, the new weights are
                in), "setting up" (before the model is made), "evaluation", "sample", "saving" (all in the trainer),
                "call" (a worker's function), "start" (the process, before anything is imported)
    step        the training step, 1 is the first; or a list. At an evaluation, a sample, a saving: the steps done
    from_step   this step and all later ones
    device      "mps": the operator's tensors, the training or the worker's call are there (it is pretended): after a
                fall to the CPU the fault is silent
    micro_batch_above   only while the micro-batch is larger
    model       the model's name, "micro"
    target      of a worker's call: "nanogpt.device:prove"
    skip        let so many go by first (those that match all else)
    times       at most so often, default 1; null: always. In this process, or with
    counter     a file that counts: so often in all, over all restarts

"operator" and "gradients" with `step` mean a step of the trainer; in a worker leave `step` out.

Two that are useful together: [{"what": "pretend", "device": "mps"}, {"what": "raise", "error": "mps not implemented",
"operator": "aten::mm", "device": "mps", "step": 17, "times": None}]: fails on the accelerator whenever step 17 comes.
"""

import os

if os.environ.get("FAULT"):
    import inject

    inject.arm(os.environ["FAULT"])
