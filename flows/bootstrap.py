"""Finds or makes the environment that a command needs and goes on inside it. Standard library only.

    from flows.bootstrap import ensure
    ensure("flows.full_run", sys.argv[1:])     # before every other import of the command

Which interpreter carries the command, first match wins:

1. `--no-bootstrap`: the one that was started, whatever it has.
2. The one that was started, when it belongs to an activated environment that has every requirement.
3. `.venv` in the checkout, when its stamp says that it was made from this pyproject.toml, in this place.
4. The one that was started, when it has every requirement (a system Python, say).
5. `.venv`, made or brought up to date now with `venv` and `pip`, so that pip's own configuration counts.

What is known of `.venv` lies in two files inside it: `.autopilot-making` from before the first package until
after the last, and `.autopilot-stamp` from then on. A start that is killed in between leaves the first alone,
which is how the next one knows. A Mac's own python3 is 3.9, so this file parses and runs on 3.6.
"""

import contextlib
import hashlib
import importlib
import json
import os
import shutil
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
PYPROJECT = os.path.join(ROOT, "pyproject.toml")
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, ".autopilot-stamp")
MAKING = os.path.join(VENV, ".autopilot-making")
LOCK = os.path.join(ROOT, "logs", "bootstrap.lock")
LOG = os.path.join(ROOT, "logs", "bootstrap.log")

OLDEST, NEWEST = (3, 11), (3, 14)  # prefect 3.8.8 refuses 3.15
NEWS_INTERVAL = 30  # seconds between lines while pip works
NVIDIA_DRIVER = "/proc/driver/nvidia/version"
HOPS = "NANOGPT_BOOTSTRAP_HOPS"  # environment variable: from interpreter to interpreter, so far


def ensure(module, argv, extras=(), answers=None):
    """Return when this interpreter suits; else set one up and run `python -m module argv` in it instead.

    module: the dotted name to run again, "flows.full_run". argv: its arguments, without the program's name;
    `--no-bootstrap` among them is left there for the program to accept and ignore. extras: names from
    [project.optional-dependencies] that are needed too. answers: dotted name of a module of the standard library
    alone whose `at_once(argv)`, and `without_packages(argv, state of .venv, name of the run)` in place of a set-up,
    end the process when they have the answer.
    Ends the process with 2 when no usable Python is found, with 1 when the installation fails: one message,
    no traceback.
    """
    # Annotations such as list[str] need 3.7; an older Python leaves the answer to the one that carries the command.
    speaker = importlib.import_module(answers) if answers and sys.version_info >= (3, 7) else None
    if speaker:
        speaker.at_once(argv)
    if "--no-bootstrap" in argv:
        if sys.version_info < OLDEST:
            give_up(f"Python {dotted(OLDEST)} or newer is needed; this is {this_version()}.", code=2)
    elif not suits(extras):
        if inside_venv():
            run_instead(sys._base_executable, module, argv)  # an environment is not repaired from within
        state = venv_state(extras)
        if state not in ("ready", "complete"):
            if speaker:
                speaker.without_packages(argv, state, setting(argv, "run") or "default")
            python = find_python()
            if python != sys.executable:
                run_instead(python, module, argv)
            set_up(extras, outlives_terminal=setting(argv, "on_hangup") != "save")
        run_instead(VENV_PYTHON, module, argv)
    os.environ.pop(HOPS, None)
    show_checkout_to_children()


# ---- What is there ---------------------------------------------------------------------------------------


def suits(extras):
    """Whether the command can go on in this very interpreter."""
    if sys.version_info < OLDEST:
        return False
    if inside_venv():
        return own_venv_suits(extras)
    activated = sys.prefix != sys.base_prefix or os.environ.get("CONDA_PREFIX") == sys.prefix
    if not activated and venv_state(extras) == "ready":
        return False
    lacking = missing(extras)
    if activated and lacking:
        say(f"The activated environment lacks {shortened(lacking)}: going on in .venv.")
    return not lacking


def own_venv_suits(extras):
    stamp = read_json(STAMP)
    if stamp and stamp["python"] != list(sys.version_info[:2]):  # the system's Python was upgraded under it
        write(MAKING, "")
        os.remove(STAMP)
        return False
    state = venv_state(extras)
    return state == "ready" or (state == "unstamped" and not missing(extras))


def missing(extras=()):
    """Requirements of pyproject.toml (texts) that the running interpreter has not, or in a wrong version."""
    try:
        from packaging.requirements import Requirement
    except ImportError:
        return ["packaging"]  # prefect and pytest need it: where it is absent, so are they
    from importlib.metadata import PackageNotFoundError, version

    lacking = []
    for text in requirements(extras):
        requirement = Requirement(text)
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            found = None
        if found is None or not requirement.specifier.contains(found, prereleases=True):
            lacking.append(text)
    return lacking


def requirements(extras):
    import tomllib

    with open(PYPROJECT, "rb") as file:
        project = tomllib.load(file)["project"]
    optional = project.get("optional-dependencies", {})
    return project.get("dependencies", []) + [text for extra in extras for text in optional[extra]]


def venv_state(extras):
    """What `.venv` is, by its two small files:

    "absent"      nothing there
    "ready"       stamped for this checkout, this pyproject.toml and these extras
    "outdated"    stamped, but for another pyproject.toml or fewer extras
    "half-made"   ours, and killed while it was made, or its Python is gone, or it was copied from elsewhere
    "unstamped"   a person put it there and its Python works; "complete" when it has every requirement
    "foreign"     a person put it there and its Python is too old or does not work
    """
    if not os.path.lexists(VENV):
        return "absent"
    stamp = read_json(STAMP)
    if stamp:
        if not os.path.exists(VENV_PYTHON) or not same_folder(stamp["checkout"], ROOT):
            return "half-made"
        same = stamp["pyproject"] == digest(PYPROJECT) and set(extras) <= set(stamp["extras"])
        return "ready" if same else "outdated"
    if os.path.exists(MAKING) or not os.listdir(VENV):
        return "half-made"
    if inside_venv():
        return "unstamped"
    lacking = output_of([VENV_PYTHON, __file__, *extras])
    if lacking is None:
        return "foreign"
    return "unstamped" if lacking.strip() else "complete"


def inside_venv():
    return os.path.realpath(sys.prefix) == os.path.realpath(VENV)


# ---- A Python that can make environments -----------------------------------------------------------------


def find_python():
    """Path of this interpreter if it will do, else of the newest on PATH, else of one that uv has or gets."""
    if can_make_environments(sys.executable):
        return sys.executable
    minors = range(NEWEST[1], OLDEST[1] - 1, -1)
    for name in [*(f"python3.{minor}" for minor in minors), "python3", "python"]:
        for folder in os.get_exec_path():
            python = shutil.which(name, path=folder)
            if python and can_make_environments(python):
                say(f"Python {this_version()} will not do here: going on with {python}.")
                return python
    return python_from_uv() or give_up(advice(), code=2)


def can_make_environments(python):
    """Runs it, because a name on PATH may be a shim for a version that is not installed."""
    probe = f"import sys, venv, ensurepip; sys.exit(not {OLDEST} <= sys.version_info[:2] <= {NEWEST})"
    return output_of([python, "-I", "-c", probe]) is not None


def python_from_uv():
    if not shutil.which("uv"):
        return None
    # --system: never the .venv that is to be made
    find = ["uv", "python", "find", "--system"]
    python = output_of([*find, f">={dotted(OLDEST)},<={dotted(NEWEST)}.99"])
    if python is None:
        say("Getting Python 3.12 with uv ...")
        output_of(["uv", "python", "install", "3.12"])
        python = output_of([*find, "3.12"])
    if python is None or not can_make_environments(python.strip()):
        return None
    say(f"Python {this_version()} will not do here: going on with uv's {python.strip()}.")
    return python.strip()


def advice():
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        package = f"python{dotted(sys.version_info)}-venv"
        return (
            f"This Python {this_version()} cannot make environments (venv or ensurepip is missing): on Debian or "
            f"Ubuntu `sudo apt install {package}`, then the same command again."
        )
    return (
        f"Python {dotted(OLDEST)} to {dotted(NEWEST)} is needed and this is {this_version()}: install one (macOS: "
        "`brew install python@3.13`; Debian or Ubuntu: `sudo apt install python3 python3-venv`; anywhere: uv from "
        "https://docs.astral.sh/uv), then the same command again."
    )


def setting(argv, key):
    """A setting of the run by the command line, --set or the run's file; "" where none names it. The file is read as
    text: there may be no YAML reader yet."""
    import re

    words = [part for word in argv for part in word.split("=")]
    given = {words[i]: words[i + 1] for i in range(len(words) - 1)}
    for option in ("--" + key.replace("_", "-"), key):
        if option in given:
            return given[option]
    for path in (given.get("--config"), os.path.join(ROOT, "configs", "runs", "default.yaml")):
        with contextlib.suppress(OSError, UnicodeDecodeError, TypeError), open(path, encoding="utf-8") as file:
            found = re.search(rf"""^{key}:\s*["']?([\w.-]+)""", file.read(), re.MULTILINE)
            if found:
                return found.group(1)
    return ""


# ---- Making .venv ----------------------------------------------------------------------------------------


def set_up(extras, outlives_terminal):
    """Make `.venv` or bring it up to date, one start at a time; stamped only after pip has succeeded."""
    import signal

    if os.name == "nt":
        give_up("On Windows run this inside WSL, or in an environment of your own with --no-bootstrap.", code=2)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # so that pip is stopped, not orphaned
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:  # nohup
        signal.signal(signal.SIGHUP, (lambda *_: None) if outlives_terminal else (lambda *_: sys.exit(129)))
    try:
        with only_one_start() as lock:
            state = venv_state(extras)
            if state not in ("ready", "complete"):
                started = time.monotonic()
                install(state, sorted(set(extras) | stamped_extras()), lock)
                say(f"The environment is ready after {time.monotonic() - started:.0f} s.")
    except KeyboardInterrupt:
        give_up("Stopped. The same command goes on.", code=130)
    except OSError as error:
        give_up(f"Cannot make .venv: {error}")


@contextlib.contextmanager
def only_one_start():
    import fcntl

    os.makedirs(os.path.dirname(LOCK), exist_ok=True)
    with open(LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another start is making .venv: waiting for it ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def install(state, extras, lock):
    fresh = state in ("absent", "half-made", "foreign")
    if fresh:
        clear_the_place(state)
        say(f"Making .venv with Python {this_version()} ...")
        os.makedirs(VENV, exist_ok=True)
    write(MAKING, "")
    if os.path.exists(STAMP):
        os.remove(STAMP)
    with open(LOG, "a") as log:
        log_start = log.tell()
        pip_comes_with = [sys.executable, "-m", "venv", VENV] if fresh else [VENV_PYTHON, "-I", "-m", "ensurepip"]
        failed = run_logged(pip_comes_with, log, lock)
        if not failed:
            say(
                f"{'Installing' if fresh else 'Bringing .venv up to date:'} {len(requirements(extras))} packages and "
                "what they need (about 1 minute; pip's words go to logs/bootstrap.log) ..."
            )
            say_size_of_torch()
            failed = run_logged(pip_install(f".[{','.join(extras)}]" if extras else "."), log, lock)
        if not failed:
            run_logged(
                [VENV_PYTHON, "-m", "flows.display.prefect_blank"], log, lock
            )  # saves time, and nothing hangs on it
    if failed:
        if not fresh:
            os.remove(MAKING)  # pip undoes what it cannot finish: worth trying again, not making again
        give_up(
            "Setting up the environment failed. The last lines of logs/bootstrap.log:\n"
            f"{last_lines(log_start, 12)}\nWhen the cause is mended, the same command goes on."
        )
    stamp = {"pyproject": digest(PYPROJECT), "extras": extras, "python": sys.version_info[:2], "checkout": ROOT}
    write(STAMP, json.dumps(stamp))
    os.remove(MAKING)


def clear_the_place(state):
    if state == "half-made":
        say("The .venv here is half-made, was moved or has lost its Python: making it again.")
        write(MAKING, "")  # stays until the end: killed while the rest goes, it is still known as half-made
        for name in os.listdir(VENV):
            path = os.path.join(VENV, name)
            if path != MAKING:
                shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.remove(path)
    elif state == "foreign":
        aside = VENV + time.strftime(".old-%Y%m%d-%H%M%S")
        say(f"The .venv here has no Python that will do: it is now {os.path.basename(aside)}.")
        os.rename(VENV, aside)


def pip_install(project):
    # -I: else the checkout's own egg-info, lying in the working folder, counts as an installed project
    pip = [VENV_PYTHON, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input"]
    return [*pip, "install", "--progress-bar", "off", "--editable", project]


def say_size_of_torch():
    import platform

    if platform.system() != "Linux" or platform.machine() != "x86_64" or os.path.exists(NVIDIA_DRIVER):
        return
    configuration = output_of([VENV_PYTHON, "-I", "-m", "pip", "config", "list"]) or ""
    if "index-url" in configuration or "find-links" in configuration:
        return  # the person chose where packages come from
    say(
        "  There is no NVIDIA driver here, yet PyTorch's ordinary Linux package brings gigabytes for CUDA. For the\n"
        "  small one stop now and start with PIP_EXTRA_INDEX_URL=https://download.pytorch.org/whl/cpu set."
    )


def run_logged(command, log, lock):
    """Exit status of `command`, its output in `log`; a line of news now and then, as a download can be long."""
    import signal
    import subprocess

    # PIP_USER: `user = true` in a person's pip.conf makes pip refuse to install into an environment.
    # pass_fds: the lock stays held while pip lives, even when this process is killed.
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env=dict(clean_environment(), PYTHONPATH="", PIP_USER="0"),
        pass_fds=(lock.fileno(),),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )  # a session of its own: what the terminal sends is for this process to heed
    started = time.monotonic()
    try:
        while True:
            try:
                return child.wait(timeout=NEWS_INTERVAL)
            except subprocess.TimeoutExpired:
                say(f"  {time.monotonic() - started:.0f} s: {last_lines(0, 1).strip()[:90]}")
    finally:
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)  # with what it has started
            child.wait()


# ---- Small things ----------------------------------------------------------------------------------------


def run_instead(python, module, argv):
    """Replace this process by `python -m module argv`."""
    hops = int(os.environ.get(HOPS, "0")) + 1
    if hops > 5:
        give_up("No interpreter suits: .venv changes between looks. Remove .venv and run the same command again.")
    sys.stdout.flush()
    os.execve(python, [python, "-m", module, *argv], dict(clean_environment(), **{HOPS: str(hops)}))


def clean_environment():
    """Without what would make another interpreter believe that it is this one (the second is macOS's)."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "__PYVENV_LAUNCHER__")}


def show_checkout_to_children():
    """`python examples/complete.py` imports this checkout's nanogpt, also where the project is not installed."""
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != ROOT]
    os.environ["PYTHONPATH"] = os.pathsep.join([ROOT, *paths])


def output_of(command):
    """Standard output, or None when the command is not there or fails."""
    import subprocess

    try:
        return subprocess.check_output(
            command, env=clean_environment(), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ).decode()
    except (OSError, subprocess.CalledProcessError):
        return None


def last_lines(start, count):
    with open(LOG, errors="replace") as file:
        file.seek(start)
        lines = [line.rstrip() for line in file if line.strip()]
    return "\n".join("    " + line for line in lines[-count:])


def read_json(path):
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError):
        return None


def stamped_extras():
    return set((read_json(STAMP) or {}).get("extras", ()))


def write(path, text):
    with open(path + ".new", "w") as file:
        file.write(text)
    os.replace(path + ".new", path)


def digest(path):
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def same_folder(one, other):
    return os.path.isdir(one) and os.path.samefile(one, other)


def shortened(texts):
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")


def dotted(version):
    return f"{version[0]}.{version[1]}"


def this_version():
    return "{}.{}.{}".format(*sys.version_info)


def say(line):
    with contextlib.suppress(OSError):  # the terminal may have been closed
        sys.stderr.write(line + "\n")
        sys.stderr.flush()


def give_up(message, code=1):
    say(message)
    sys.exit(code)


if __name__ == "__main__":  # venv_state asks another interpreter what it lacks
    if sys.version_info < OLDEST:
        sys.exit(1)
    print("\n".join(missing(sys.argv[1:])))
