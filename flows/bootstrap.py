"""Finds or makes the environment that a command needs and continues inside it. Standard library only.

    from flows.bootstrap import ensure
    ensure("flows.full_run", sys.argv[1:])     # before every other import of the command

Which interpreter carries the command, first match wins:

1. `--no-bootstrap`: the one that was started, whatever it has.
2. The one that was started, when it belongs to an activated environment that has every requirement.
3. `.venv` in the checkout, when its stamp says that it was made from this pyproject.toml, in this place.
4. The one that was started, when it has every requirement (a system Python, say).
5. `.venv`, made or brought up to date now: by uv where it is on PATH and pip has no configuration of its own, else by
   pip, so that pip's configuration counts.

What is known of `.venv` lies in two files inside it: `.autopilot-making` from before the first package until
after the last, and `.autopilot-stamp` from then on. A start that is killed in between leaves the first alone,
which is how the next one knows. A Mac's own python3 is 3.9, that of RHEL 8 is 3.6: this file parses and runs there.
"""

import contextlib
import hashlib
import importlib
import json
import os
import re
import shutil
import sys
import time
from typing import IO, Any, Dict, Iterator, List, NoReturn, Optional, Sequence, Set, Tuple

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
PYPROJECT = os.path.join(ROOT, "pyproject.toml")
VENV = os.path.join(ROOT, ".venv")
VENV_PYTHON = os.path.join(VENV, "bin", "python")
STAMP = os.path.join(VENV, ".autopilot-stamp")
MAKING = os.path.join(VENV, ".autopilot-making")
FETCHED = os.path.join(VENV, ".autopilot-fetched")  # pip's folder for temporary files
LOCK = os.path.join(ROOT, "logs", "bootstrap.lock")
LOG = os.path.join(ROOT, "logs", "bootstrap.log")

OLDEST, NEWEST = (3, 11), (3, 14)  # prefect 3.8.8 refuses 3.15
READS_ANNOTATIONS = (3, 7)  # such as list[str], when they are postponed
NEWS_INTERVAL = 30  # seconds between two lines of news in a file or pipe
REDRAW_INTERVAL = 0.5  # on a terminal, where one line is rewritten in place
CPU_INDEX = "https://download.pytorch.org/whl/cpu"
SIGNS_OF_NVIDIA = ("/proc/driver/nvidia/version", "/usr/lib/wsl/lib/libcuda.so.1")  # Linux; Windows' own driver in WSL
STOPPED = "Stopped. The same command continues."
HOPS = "NANOGPT_BOOTSTRAP_HOPS"  # environment variable: from interpreter to interpreter, so far

# Measured on x86_64 Linux with Python 3.11: gigabytes to fetch, and on disk with the bytecode that a run needs. With
# CUDA it was measured before onnxruntime and what came with it, 0.04 and 0.2, which are added.
SIZE_WITHOUT_CUDA, SIZE_WITH_CUDA = (0.4, 1.3), (3.2, 6.1)

# Bytecode of all packages costs 25 of the 61 s of processor time that pip takes, and 260 MB. Python compiles what it
# imports (4 s in all) and keeps it, unless it was forbidden to: then every process would compile again.
EAGER_BYTECODE = bool(os.environ.get("PYTHONDONTWRITEBYTECODE"))

NEWEST_CPU_BUILD = """
import re, subprocess, sys
from pip._vendor.packaging.requirements import Requirement
admitted = Requirement(sys.argv[1]).specifier
asked = [sys.executable, "-I", "-m", "pip", "index", "versions", "torch", *sys.argv[2:]]
known = subprocess.check_output(asked, universal_newlines=True)
print(next((build for build in re.findall(r"[0-9.]+[+]cpu", known) if build in admitted), ""))
"""


def ensure(module: str, argv: List[str], extras: Sequence[str] = (), answers: Optional[str] = None) -> None:
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
    speaker = importlib.import_module(answers) if answers and sys.version_info >= READS_ANNOTATIONS else None
    if speaker:
        speaker.at_once(argv)
    if "--no-bootstrap" in argv:
        if sys.version_info < OLDEST:
            give_up(f"Python {dotted(OLDEST)} or newer is needed; this is {this_version()}.", code=2)
    elif not suits(extras):
        if inside_venv():
            # An environment is not repaired from within; getattr, because the attribute is not documented.
            run_instead(getattr(sys, "_base_executable", sys.executable), module, argv)
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


def suits(extras: Sequence[str]) -> bool:
    """Whether the command can continue in this very interpreter."""
    if sys.version_info < OLDEST:
        return False
    if inside_venv():
        return own_venv_suits(extras)
    activated = sys.prefix != sys.base_prefix or os.environ.get("CONDA_PREFIX") == sys.prefix
    if not activated and venv_state(extras) == "ready":
        return False
    lacking = missing(extras)
    if activated and lacking:
        say(f"The activated environment lacks {shortened(lacking)}: .venv is used instead.")
    return not lacking


def own_venv_suits(extras: Sequence[str]) -> bool:
    stamp = read_stamp()
    if stamp and stamp["python"] != list(sys.version_info[:2]):  # the system's Python was upgraded under it
        write(MAKING, ROOT)
        os.remove(STAMP)
        return False
    state = venv_state(extras)
    return state == "ready" or (state == "unstamped" and not missing(extras))


def missing(extras: Sequence[str] = ()) -> List[str]:
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


def requirements(extras: Sequence[str]) -> List[str]:
    import tomllib

    with open(PYPROJECT, "rb") as file:
        project = tomllib.load(file)["project"]
    optional = project.get("optional-dependencies", {})
    return [*project.get("dependencies", []), *(text for extra in extras for text in optional[extra])]


def venv_state(extras: Sequence[str]) -> str:
    """What `.venv` is, by its two small files:

    "absent"      nothing there
    "ready"       stamped for this checkout, this pyproject.toml and these extras
    "outdated"    stamped, but for another pyproject.toml or fewer extras
    "half-made"   ours, and killed while it was made, or its Python is gone, or it was copied from elsewhere
    "unstamped"   a person put it there and its Python works; "complete" when it has every requirement
    "foreign"     a person put it there, and it is no folder or its Python is too old or does not work; or a link to
                  what another checkout may use, and lacks something
    """
    if not os.path.lexists(VENV):
        return "absent"
    stamp, is_link = read_stamp(), os.path.islink(VENV)
    if stamp:
        if not same_folder(stamp["checkout"], ROOT):
            return "foreign" if is_link else "half-made"
        if not os.path.exists(VENV_PYTHON):
            return "half-made"
        same = stamp["pyproject"] == digest(PYPROJECT) and set(extras) <= set(stamp["extras"])
        return "ready" if same else "outdated"
    if not os.path.isdir(VENV):
        return "foreign"
    if os.path.lexists(MAKING):
        return "foreign" if is_link and not same_folder(first_line(MAKING), ROOT) else "half-made"
    if not os.listdir(VENV):
        return "half-made"
    if inside_venv():
        return "unstamped"
    lacking = output_of([VENV_PYTHON, __file__, *extras])
    if lacking is None or (lacking.strip() and is_link):
        return "foreign"
    return "unstamped" if lacking.strip() else "complete"


def inside_venv() -> bool:
    return os.path.realpath(sys.prefix) == os.path.realpath(VENV)


# ---- A Python that can make environments -----------------------------------------------------------------


def find_python() -> str:
    """Path of this interpreter if it suits, else of the newest on PATH, else of one that uv has or gets."""
    if can_make_environments(sys.executable):
        return sys.executable
    minors = range(NEWEST[1], OLDEST[1] - 1, -1)
    for name in [*(f"python3.{minor}" for minor in minors), "python3", "python"]:
        for folder in os.get_exec_path():
            python = shutil.which(name, path=folder)
            if python and can_make_environments(python):
                say(f"Python {this_version()} is not suitable: {python} is used instead.")
                return python
    return python_from_uv() or give_up(advice(), code=2)


def can_make_environments(python: str) -> bool:
    """Runs it, because a name on PATH may be a shim for a version that is not installed."""
    probe = f"import sys, venv, ensurepip; sys.exit(not {OLDEST} <= sys.version_info[:2] <= {NEWEST})"
    return output_of([python, "-I", "-c", probe]) is not None


def python_from_uv() -> Optional[str]:
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
    say(f"Python {this_version()} is not suitable: uv's {python.strip()} is used instead.")
    return python.strip()


def advice() -> str:
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        package = f"python{dotted(sys.version_info[:2])}-venv"
        return (
            f"This Python {this_version()} cannot make environments (venv or ensurepip is missing): on Debian or "
            f"Ubuntu `sudo apt install {package}`, then the same command again."
        )
    return (
        f"Python {dotted(OLDEST)} to {dotted(NEWEST)} is needed and this is {this_version()}: install one (macOS: "
        "`brew install python@3.13`; Debian or Ubuntu: `sudo apt install python3 python3-venv`; anywhere: uv from "
        "https://docs.astral.sh/uv), then the same command again."
    )


def setting(argv: List[str], key: str) -> str:
    """A setting of the run by the command line, --set or the run's file; "" where none names it. The file is read as
    text: there may be no YAML reader yet."""
    words = [part for word in argv for part in word.split("=")]
    given = {words[i]: words[i + 1] for i in range(len(words) - 1)}
    for option in ("--" + key.replace("_", "-"), key):
        if option in given:
            return given[option]
    for path in (given.get("--config", ""), os.path.join(ROOT, "configs", "runs", "default.yaml")):
        if not os.path.isfile(path):  # opening a FIFO would never end
            continue
        with contextlib.suppress(OSError, UnicodeDecodeError), open(path, encoding="utf-8") as file:
            found = re.search(rf"""^{key}:\s*["']?([\w.-]+)""", file.read(), re.MULTILINE)
            if found:
                return found.group(1)
    return ""


# ---- Making .venv ----------------------------------------------------------------------------------------


def set_up(extras: Sequence[str], outlives_terminal: bool) -> None:
    """Make `.venv` or bring it up to date, one start at a time; stamped only after the installation succeeded."""
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
        give_up(STOPPED, code=130)
    except OSError as error:
        # rmtree() closes a folder a second time when a signal ends it right behind the first: the signal counts.
        if isinstance(error.__context__, SystemExit):
            raise error.__context__ from None
        if isinstance(error.__context__, KeyboardInterrupt):
            give_up(STOPPED, code=130)
        give_up(f"Cannot make .venv: {error}")


@contextlib.contextmanager
def only_one_start() -> Iterator[IO[str]]:
    import fcntl

    os.makedirs(os.path.dirname(LOCK), exist_ok=True)
    make_way(LOCK)
    with open(LOCK, "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("Another start is making .venv: waiting for it ...")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield lock


def install(state: str, extras: List[str], lock: IO[str]) -> None:
    fresh = state in ("absent", "half-made", "foreign")
    if fresh:
        clear_the_place(state)
        say(f"Making .venv with Python {this_version()} ...")
        os.makedirs(VENV, exist_ok=True)
    else:
        say("Bringing .venv up to date ...")
    write(MAKING, ROOT)
    make_way(STAMP)
    if os.path.exists(STAMP):
        os.remove(STAMP)
    make_way(LOG)
    with open(LOG, "a") as log:
        log_start = log.tell()
        pip_comes_with = [sys.executable, "-m", "venv", VENV] if fresh else [VENV_PYTHON, "-I", "-m", "ensurepip"]
        failed = run_logged(pip_comes_with, log, lock) or install_packages(extras, log, lock)
        if not failed:  # saves time at the first start, and nothing depends on it
            say("Preparing the pages of runs ...")
            run_logged([VENV_PYTHON, "-m", "flows.display.prefect_blank"], log, lock)
    shutil.rmtree(FETCHED, ignore_errors=True)
    if failed:
        if not fresh:
            os.remove(MAKING)  # pip undoes what it cannot finish: worth trying again, not making again
        give_up(
            "Setting up the environment failed. The last lines of logs/bootstrap.log:\n"
            f"{last_lines(log_start, 12)}\nWhen the cause is fixed, the same command continues."
        )
    stamp = {"pyproject": digest(PYPROJECT), "extras": extras, "python": sys.version_info[:2], "checkout": ROOT}
    write(STAMP, json.dumps(stamp))
    os.remove(MAKING)


def clear_the_place(state: str) -> None:
    if state == "half-made":
        say("The .venv here is incomplete, was moved or has lost its Python: making it again.")
        write(MAKING, ROOT)  # stays until the end: killed while the rest goes, it is still known as half-made
        for name in os.listdir(VENV):
            path = os.path.join(VENV, name)
            if path != MAKING:
                shutil.rmtree(path) if os.path.isdir(path) and not os.path.islink(path) else os.remove(path)
    elif state == "foreign":
        aside = VENV + time.strftime(".old-%Y%m%d-%H%M%S")
        say(f"This checkout cannot use the .venv that is here: it is renamed to {os.path.basename(aside)}.")
        os.rename(VENV, aside)


# ---- Packages --------------------------------------------------------------------------------------------


def install_packages(extras: List[str], log: IO[str], lock: IO[str]) -> int:
    """Install the project and what it requires; the exit status."""
    configured = pip_is_configured()
    pin = missing_torch(extras)
    can_have_cuda = sys.platform.startswith("linux")
    torch, index = torch_without_cuda(pin, configured) if pin and can_have_cuda and not has_nvidia_gpu() else ([], [])
    uv = shutil.which("uv") and not configured
    installer = "uv" if uv else "pip"
    say(f"Installing {len(requirements(extras))} packages and what they need with {installer}.")
    if pin:
        say(size_of_torch(with_cuda=can_have_cuda and not torch))
    say(f"The output of {installer} goes to logs/bootstrap.log.")
    project = f".[{','.join(extras)}]" if extras else "."
    if uv:
        command = ["uv", "pip", "install", "--python", VENV_PYTHON, "--editable", project]
        command += ["--torch-backend", "cpu"] * bool(index) + ["--compile-bytecode"] * EAGER_BYTECODE
        if run_logged(command, log, lock, Progress(log.tell())) == 0:
            return 0
        say("uv could not install the packages (logs/bootstrap.log says why): trying pip ...")
    # -I: else the checkout's own egg-info, lying in the working folder, counts as an installed project
    command = [VENV_PYTHON, "-I", "-m", "pip", "--disable-pip-version-check", "--no-input", "install"]
    command += ["--progress-bar", "off"] + ["--no-compile"] * (not EAGER_BYTECODE)
    return run_logged([*command, *index, *torch, "--editable", project], log, lock, Progress(log.tell()))


def pip_is_configured() -> bool:
    """Whether pip's configuration says where packages come from, which uv does not read."""
    settings = output_of([VENV_PYTHON, "-I", "-m", "pip", "config", "list"]) or ""
    return any(word in settings for word in ("index-url", "find-links", "no-index"))


def missing_torch(extras: List[str]) -> str:
    """The requirement of PyTorch, such as "torch>=2.10"; empty where it is met or there is none."""
    lacking = (output_of([VENV_PYTHON, __file__, *extras]) or "").splitlines()
    if lacking == ["packaging"]:  # without that, missing() knows nothing more
        lacking = requirements(extras)
    return next((text for text in lacking if re.match(r"torch\b(?!-)", text)), "")


def torch_without_cuda(pin: str, configured: bool) -> Tuple[List[str], List[str]]:
    """What to add to pip's command for the newest build of PyTorch without CUDA: the requirement, and options for the
    index that has it. Both are empty where no such build is found."""
    index = [] if configured or not is_reachable(CPU_INDEX) else ["--extra-index-url", CPU_INDEX]
    version = (output_of([VENV_PYTHON, "-I", "-c", NEWEST_CPU_BUILD, pin, *index]) or "").strip()
    return (["torch==" + version], index) if version else ([], [])


def has_nvidia_gpu() -> bool:
    return any(map(os.path.exists, SIGNS_OF_NVIDIA)) or shutil.which("nvidia-smi") is not None


def is_reachable(url: str) -> bool:
    from urllib.request import urlopen

    try:
        with urlopen(url + "/", timeout=5):
            return True
    except (OSError, ValueError):  # ValueError: a proxy whose address cannot be read
        return False


def size_of_torch(with_cuda: bool) -> str:
    fetched, on_disk = SIZE_WITH_CUDA if with_cuda else SIZE_WITHOUT_CUDA
    free = shutil.disk_usage(ROOT).free / 1e9
    little = f" (only {free:.1f} GB are free)" if free < on_disk else ""
    cuda = "with" if with_cuda else "without"
    return f"PyTorch comes {cuda} CUDA: about {fetched} GB to download, {on_disk} GB on disk{little}."


class Progress:
    """How far the installation is, in one line: from what pip or uv has printed, and what is in the environment."""

    def __init__(self, log_start: int) -> None:
        self.log_start, self.started, self.before = log_start, time.monotonic(), installed_count()

    def line(self) -> str:
        minutes, seconds = divmod(int(time.monotonic() - self.started), 60)
        with open(LOG, errors="replace") as file:
            file.seek(self.log_start)
            text = file.read()
        return f"  {self._state(text)}, {minutes}:{seconds:02d}"

    def _state(self, text: str) -> str:
        """pip prints `Collecting NAME` for each package, `Downloading FILE` as it begins one, and at last a list of
        all. uv prints how many they are, and with their sizes the large ones as it begins and ends each."""
        listed = re.search(r"^Installing collected packages: (.*)", text, re.M)
        prepared = re.search(r"^Prepared (\d+) package", text, re.M)
        if listed or prepared:
            total = listed.group(1).count(",") + 1 if listed else int(prepared.group(1)) if prepared else 0
            return f"installed {min(installed_count() - self.before, total)} of {total} packages"
        resolved = re.search(r"^Resolved (\d+) package", text, re.M)
        if resolved:
            sizes = dict(re.findall(r"^ *Downloading (\S+) \(([\d.]+\w+)\)", text, re.M))
            fetched = sum(megabytes(sizes.get(name, "0MiB")) for name in re.findall(r"^ *Downloaded (\S+)", text, re.M))
            return f"fetching {resolved.group(1)} packages, {fetched:.0f} MB of the large ones so far"
        found = set(re.findall(r"^ *Collecting ([\w.-]+)", text, re.M))
        found |= set(re.findall(r"^ *Processing \S*?([\w.]+)-\S+\.whl", text, re.M))
        if not found:
            return "looking which versions there are"
        begun = len(re.findall(r"^ *(?:Downloading|Using cached|Processing) \S+\.(?:whl|gz|zip)\b(?!\.)", text, re.M))
        fetched = min(max(begun - 1, 0), len(found))
        return f"fetched {fetched} of {len(found)} packages found so far, {fetched_bytes() / 1e6:.0f} MB"


def megabytes(size: str) -> float:
    """uv's `6.7MiB` -> 7.0"""
    number, unit = size.rstrip("KMGTiB"), size.lstrip("0123456789.")[:1]
    return float(number) * 2.0 ** (10 * " KMGT".index(unit)) / 1e6


def installed_count() -> int:
    import glob

    return len(glob.glob(os.path.join(glob.escape(VENV), "lib", "python*", "site-packages", "*.dist-info")))


def fetched_bytes() -> int:
    """pip keeps the files that it has fetched in a folder of its own until the end."""
    size = 0
    for folder, _, files in os.walk(FETCHED):
        if "pip-unpack-" in folder:
            for name in files:
                with contextlib.suppress(OSError):  # it may be gone by now
                    size += os.path.getsize(os.path.join(folder, name))
    return size


def run_logged(command: List[str], log: IO[str], lock: IO[str], progress: Optional[Progress] = None) -> int:
    """Exit status of `command`, its output in `log`; its progress is shown now and then, as a download can be long."""
    import signal
    import subprocess

    os.makedirs(FETCHED, exist_ok=True)
    # PIP_USER: `user = true` in a person's pip.conf makes pip refuse to install into an environment.
    # TMPDIR: /tmp may be a small disk in memory. pass_fds: the lock stays held while pip lives, even when this process
    # is killed. A session of its own: what the terminal sends is for this process to handle.
    child = subprocess.Popen(
        command,
        cwd=ROOT,
        env=dict(clean_environment(), PYTHONPATH="", PIP_USER="0", TMPDIR=FETCHED),
        pass_fds=(lock.fileno(),),
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    in_place = progress is not None and is_terminal(sys.stderr)
    try:
        while True:
            try:
                return child.wait(timeout=REDRAW_INTERVAL if in_place else NEWS_INTERVAL)
            except subprocess.TimeoutExpired:
                if progress:
                    say(progress.line(), in_place)
    finally:
        if in_place:
            say("", in_place)
        if child.poll() is None:
            os.killpg(child.pid, signal.SIGTERM)  # with what it has started
            child.wait()


# ---- Small things ----------------------------------------------------------------------------------------


def run_instead(python: str, module: str, argv: List[str]) -> NoReturn:
    """Replace this process by `python -m module argv`."""
    hops = int(os.environ.get(HOPS, "0")) + 1
    if hops > 5:
        give_up("No interpreter suits: .venv changes between looks. Remove .venv and run the same command again.")
    sys.stdout.flush()
    os.execve(python, [python, "-m", module, *argv], dict(clean_environment(), **{HOPS: str(hops)}))


def clean_environment() -> Dict[str, str]:
    """Without what would make another interpreter believe that it is this one (the second is macOS's)."""
    return {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "__PYVENV_LAUNCHER__")}


def show_checkout_to_children() -> None:
    """`python examples/complete.py` imports this checkout's nanogpt, also where the project is not installed."""
    paths = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path and path != ROOT]
    os.environ["PYTHONPATH"] = os.pathsep.join([ROOT, *paths])


def output_of(command: List[str]) -> Optional[str]:
    """Standard output, or None when the command is not there or fails."""
    import subprocess

    try:
        return subprocess.check_output(
            command, env=clean_environment(), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ).decode()
    except (OSError, subprocess.CalledProcessError):
        return None


def last_lines(start: int, count: int) -> str:
    with open(LOG, errors="replace") as file:
        file.seek(start)
        lines = [line.rstrip() for line in file if line.strip()]
    return "\n".join("    " + line for line in lines[-count:])


def read_stamp() -> Any:
    """What STAMP says; None where it is absent or damaged."""
    stamp = read_json(STAMP)
    is_whole = isinstance(stamp, dict) and {"python", "checkout", "pyproject", "extras"} <= set(stamp)
    return stamp if is_whole else None


def read_json(path: str) -> Any:
    if not os.path.isfile(path):  # opening a FIFO would never end
        return None
    try:
        with open(path) as file:
            return json.load(file)
    except (OSError, ValueError, RecursionError):
        return None


def first_line(path: str) -> str:
    """Of a file; empty where it cannot be read."""
    if not os.path.isfile(path):
        return ""
    try:
        with open(path) as file:
            return file.readline().strip()
    except (OSError, ValueError):
        return ""


def stamped_extras() -> Set[str]:
    return set((read_stamp() or {}).get("extras", ()))


def make_way(path: str) -> None:
    """Set aside what stands where a file belongs and is none."""
    if os.path.lexists(path) and not os.path.isfile(path):
        shutil.rmtree(path + ".bad", ignore_errors=True)
        os.replace(path, path + ".bad")


def write(path: str, text: str) -> None:
    make_way(path)
    make_way(path + ".new")
    with open(path + ".new", "w") as file:
        file.write(text)
    os.replace(path + ".new", path)


def digest(path: str) -> str:
    with open(path, "rb") as file:
        return hashlib.sha256(file.read()).hexdigest()


def same_folder(one: str, other: str) -> bool:
    return os.path.isdir(one) and os.path.samefile(one, other)


def shortened(texts: List[str]) -> str:
    return ", ".join(texts[:3]) + (f" and {len(texts) - 3} more" if len(texts) > 3 else "")


def dotted(version: Tuple[int, int]) -> str:
    return f"{version[0]}.{version[1]}"


def this_version() -> str:
    return "{}.{}.{}".format(*sys.version_info)


def say(line: str, in_place: bool = False) -> None:
    """A line on standard error; in_place: instead of the terminal's last line."""
    with contextlib.suppress(OSError, AttributeError):  # the terminal may have been closed, the stream from the start
        sys.stderr.write("\r\x1b[K" + line[: shutil.get_terminal_size().columns - 1] if in_place else line + "\n")
        sys.stderr.flush()


def is_terminal(stream: Optional[IO[str]]) -> bool:
    return stream is not None and stream.isatty()


def give_up(message: str, code: int = 1) -> NoReturn:
    say(message)
    sys.exit(code)


if __name__ == "__main__":  # venv_state asks another interpreter what it lacks
    if sys.version_info < OLDEST:
        sys.exit(1)
    print("\n".join(missing(sys.argv[1:])))
