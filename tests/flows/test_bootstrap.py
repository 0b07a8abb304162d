"""The way from a bare machine into an environment, played on a tiny project whose packages are local files."""

import ast
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import SimpleNamespace

import pytest

from flows import bootstrap
from tests.not_a_file import each_kind

CHECKOUT = Path(__file__).resolve().parents[2]
BASE_PYTHON = getattr(sys, "_base_executable", sys.executable)  # outside every environment

COMMAND = """
import sys
from flows.bootstrap import ensure
ensure("flows.command", sys.argv[1:], extras=("test",) if "--with-extra" in sys.argv else ())
import json, os
print(json.dumps({"prefix": sys.prefix, "argv": sys.argv[1:], "pythonpath": os.environ["PYTHONPATH"]}))
"""

OLD_PYTHON = """
import sys
sys.version_info, sys.executable = (3, 9, 6, "final", 0), "/nowhere/python3.9"
from flows.bootstrap import ensure
ensure("flows.command", ["--budget", "10m"])
"""

# A build backend that needs no package, so that no index is asked.
BACKEND = """
import os, zipfile
def build_editable(folder, *_):
    name = "tiny-1.0-py3-none-any.whl"
    with zipfile.ZipFile(os.path.join(folder, name), "w") as wheel:
        wheel.writestr("tiny.pth", os.getcwd())
        for file, text in metadata("tiny", os.environ["TINY_REQUIRES"].split()).items():
            wheel.writestr(file, text)
    return name
def metadata(name, requires, version="1.0"):
    return {
        f"{name}-{version}.dist-info/METADATA": f"Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n"
        "Provides-Extra: test\\n" + "".join(f"Requires-Dist: {r}\\n" for r in requires),
        f"{name}-{version}.dist-info/WHEEL": "Wheel-Version: 1.0\\nGenerator: tiny\\nRoot-Is-Purelib: true\\n"
        "Tag: py3-none-any\\n",
        f"{name}-{version}.dist-info/RECORD": "",
    }
"""


class Project:
    """A checkout in a folder with a space in its name, and a machine that reaches only its own wheels."""

    def __init__(self, folder: Path):
        self.folder = folder / "the checkout"
        self.wheels = folder / "wheels"
        (self.folder / "flows").mkdir(parents=True)
        self.wheels.mkdir()
        shutil.copy(bootstrap.__file__, self.folder / "flows" / "bootstrap.py")
        (self.folder / "flows" / "__init__.py").touch()
        (self.folder / "flows" / "command.py").write_text(COMMAND)
        (self.folder / "backend.py").write_text(BACKEND)
        self.require("leaf")
        for name in ("leaf", "twig"):
            self.wheel(name)
        self.path = os.environ["PATH"]
        self.pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": self.wheels.as_uri()}

    def require(self, *names: str) -> None:
        self.requires = names
        (self.folder / "pyproject.toml").write_text(
            '[build-system]\nrequires = []\nbuild-backend = "backend"\nbackend-path = ["."]\n'
            f'[project]\nname = "tiny"\nversion = "1.0"\ndependencies = {json.dumps(names)}\n'
            '[project.optional-dependencies]\ntest = ["twig"]\n'
        )

    def wheel(self, name: str, version: str = "1.0") -> None:
        helpers: dict = {}
        exec(BACKEND, helpers)
        with zipfile.ZipFile(self.wheels / f"{name}-{version}-py3-none-any.whl", "w") as wheel:
            wheel.writestr(f"{name}.py", f"version = {version!r}")
            for file, text in helpers["metadata"](name, [], version).items():
                wheel.writestr(file, text)

    def start(self, *arguments: str, python: str = BASE_PYTHON, **options) -> subprocess.Popen:
        drop = ("PIP_", "PYTHON", "CONDA", "VIRTUAL_ENV", bootstrap.HOPS)
        environment = {k: v for k, v in os.environ.items() if not k.startswith(drop)}
        environment |= {
            **self.pip,
            **dict.fromkeys(("HTTPS_PROXY", "https_proxy"), "http://127.0.0.1:9"),  # the names may be taken on PyPI
            "PIP_CONFIG_FILE": os.devnull,
            "TINY_REQUIRES": " ".join([*self.requires, 'twig;extra=="test"']),
            "PATH": self.path,
        }
        return subprocess.Popen(
            [python, *arguments],
            cwd=self.folder,
            env=environment,
            text=True,
            **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options},
        )

    def run(self, *arguments: str, python: str = BASE_PYTHON) -> tuple[int, str, str]:
        process = self.start(*arguments, python=python)
        stdout, stderr = process.communicate(timeout=120)
        return process.returncode, stdout, stderr

    def command(self, *arguments: str, python: str = BASE_PYTHON) -> tuple[dict, str]:
        """What the command saw, and what was said on the way to it."""
        code, stdout, stderr = self.run("-m", "flows.command", *arguments, python=python)
        assert code == 0, stderr
        return json.loads(stdout), stderr

    def program(self, name: str, script: str, keep: bool = False) -> None:
        """Put a program on a PATH that has nothing else, or before all else."""
        folder = self.wheels.parent / "bin"
        folder.mkdir(exist_ok=True)
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)
        self.path = f"{folder}{os.pathsep}{os.environ['PATH']}" if keep else str(folder)

    @property
    def venv(self) -> Path:
        return self.folder / ".venv"

    @property
    def stamp(self) -> Path:
        return self.venv / ".autopilot-stamp"

    @property
    def pip_log(self) -> str:
        return (self.folder / "logs" / "bootstrap.log").read_text()

    def has(self, name: str) -> bool:
        return any(self.venv.glob(f"lib/python*/site-packages/{name}.py"))


@pytest.fixture
def project(tmp_path) -> Project:
    return Project(tmp_path)


def wait_until_half_made(project: Project, process: subprocess.Popen) -> None:
    while not (project.venv / "bin").exists():
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)


@pytest.mark.slow
def test_a_life_of_one_checkout(project):
    blank = project.folder / "flows" / "display" / "prefect_blank.py"
    blank.parent.mkdir()
    blank.write_text("open('.venv/blank', 'w'); raise OSError('and no harm')")
    project.require("leaf", "no-such-package")
    code, _, said = project.run("-m", "flows.command")
    assert code == 1 and not project.stamp.exists()
    assert "Making .venv" in said and "No matching distribution found for no-such-package" in said
    assert "logs/bootstrap.log" in said and "Traceback" not in said, "pip's last lines"
    assert (project.venv / ".autopilot-making").exists(), "the next start makes it again"

    for version in ("2.0", "1.5+cpu", "1.0+cpu", "3.0+cpu"):
        project.wheel("torch", version)
    project.require("leaf", "torch>=1.0,<3")
    seen, said = project.command("--budget", "10m")
    assert seen["prefix"] == str(project.venv) and (project.venv / "blank").exists()
    assert seen["argv"] == ["--budget", "10m"]
    assert seen["pythonpath"] == str(project.folder)
    assert "making it again" in said and "Installing 2 packages and what they need with pip." in said
    assert project.has("leaf")
    _torch_suits_the_machine(project, said)

    log = project.pip_log
    seen, said = project.command("again")
    assert (seen["prefix"], said, project.pip_log) == (str(project.venv), "", log), "a warm start calls no pip"

    _, said = project.command("--with-extra")
    assert "Bringing .venv up to date" in said and project.has("twig")
    log = project.pip_log
    assert project.command()[1] == "", "more extras than needed are no reason to install"

    project.require("leaf", "torch>=1.0,<3", "twig")
    kept = project.venv / "kept-through-an-update"
    kept.touch()
    _, said = project.command(python=str(project.venv / "bin" / "python"))
    assert "Bringing .venv up to date" in said and kept.exists(), "also when it is .venv's own Python that starts"
    assert json.loads(project.stamp.read_text())["extras"] == ["test"], "what tests need stays stamped"

    # As after a system upgrade: the Python in .venv is another than the packages were installed for.
    project.stamp.write_text(project.stamp.read_text().replace(f"[{sys.version_info[0]}, ", "[2, "))
    seen, said = project.command()
    assert "making it again" in said and not kept.exists() and seen["prefix"] == str(project.venv)

    project.folder = project.folder.rename(project.folder.with_name("moved"))
    state = "from flows import bootstrap; print(bootstrap.venv_state(()))"
    assert project.run("-c", state)[1] == "half-made\n", "its scripts name the former place: to be made again, as above"


def _torch_suits_the_machine(project: Project, said: str) -> None:
    """It comes without CUDA where there is no GPU that needs it; elsewhere than on Linux it always does."""
    (installed,) = project.venv.glob("lib/python*/site-packages/torch.py")
    if bootstrap.has_nvidia_gpu() or not sys.platform.startswith("linux"):
        assert "'2.0'" in installed.read_text()
    else:
        assert "'1.5+cpu'" in installed.read_text() and "PyTorch comes without CUDA" in said
    if sys.platform.startswith("linux"):
        assert re.search(r"CUDA: about \d\.\d GB to download, \d\.\d GB on disk", said), said
        sizes = next(line for line in said.splitlines() if "GB to download" in line)
        assert len(sizes) <= 80, "a terminal would cut words"


@pytest.mark.slow
def test_whatever_ends_it_in_the_middle_the_next_start_makes_it_again(project):
    """Terminated, then hung up where that is to end it, then killed; a terminal closed otherwise changes nothing."""
    process = project.start("-m", "flows.command")
    wait_until_half_made(project, process)
    process.terminate()
    _, said = process.communicate(timeout=60)
    assert process.returncode == 143 and "Traceback" not in said and not project.stamp.exists()

    process = project.start("-m", "flows.command", "--on-hangup", "save", start_new_session=True)
    assert "making it again" in process.stderr.readline(), "pip was taken along: nobody holds the lock"
    wait_until_half_made(project, process)
    os.killpg(process.pid, signal.SIGHUP)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 129 and "Traceback" not in said and not project.stamp.exists()

    process = project.start("-m", "flows.command")
    assert "making it again" in process.stderr.readline()
    wait_until_half_made(project, process)
    process.kill()
    process.communicate()
    assert not project.stamp.exists()

    process = project.start("-m", "flows.command", start_new_session=True)
    first = process.stderr.readline()  # pip of the killed one may hold the lock for a while
    os.killpg(process.pid, signal.SIGHUP)
    seen, said = process.communicate(timeout=120)
    assert process.returncode == 0 and "making it again" in first + said, said
    assert json.loads(seen)["prefix"] == str(project.venv) and project.stamp.exists() and project.has("leaf")


@pytest.mark.fast
@pytest.mark.parametrize(("end", "code"), [(KeyboardInterrupt(), 130), (SystemExit(129), 129)])
def test_a_signal_while_a_half_made_one_goes_is_no_failure(tmp_path, monkeypatch, end, code):
    """As rmtree() has it when a signal comes right behind its close() of a folder: it closes it a second time."""

    def interrupted(*_):
        try:
            raise end
        finally:
            os.close(-1)

    monkeypatch.setattr(bootstrap, "LOCK", str(tmp_path / "lock"))
    monkeypatch.setattr(bootstrap, "venv_state", lambda extras: "half-made")
    monkeypatch.setattr(bootstrap, "stamped_extras", set)
    monkeypatch.setattr(bootstrap, "install", interrupted)
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP)}
    try:
        with pytest.raises(SystemExit) as ended:
            bootstrap.set_up((), outlives_terminal=False)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert ended.value.code == code


def test_killed_while_a_half_made_one_goes_it_is_still_known_as_half_made(tmp_path, monkeypatch):
    venv = tmp_path / ".venv"
    monkeypatch.setattr(bootstrap, "VENV", str(venv))
    monkeypatch.setattr(bootstrap, "MAKING", str(venv / ".autopilot-making"))
    monkeypatch.setattr(bootstrap, "STAMP", str(venv / ".autopilot-stamp"))
    for name in ("bin", "lib", "share"):
        (venv / name).mkdir(parents=True)
    bootstrap.write(bootstrap.STAMP, stamp_of("/elsewhere"))
    seen, remove = [], shutil.rmtree
    monkeypatch.setattr(shutil, "rmtree", lambda path: (remove(path), seen.append(bootstrap.venv_state(()))))
    bootstrap.clear_the_place("half-made")
    assert seen == ["half-made"] * 3 and os.listdir(venv) == [".autopilot-making"]


def stamp_of(checkout: str) -> str:
    """What an environment of `checkout` says of itself."""
    return json.dumps({"pyproject": "", "extras": [], "python": sys.version_info[:2], "checkout": checkout})


def use_as_venv(venv: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    places = {"VENV": "", "MAKING": ".autopilot-making", "STAMP": ".autopilot-stamp", "VENV_PYTHON": "bin/python"}
    for name, path in places.items():
        monkeypatch.setattr(bootstrap, name, str(venv / path))


@pytest.mark.parametrize("holds", ["the environment of another checkout", "one that is being made", "a Python alone"])
def test_a_link_is_set_aside_and_what_it_leads_to_is_left_alone(tmp_path, monkeypatch, holds):
    there, venv = tmp_path / "elsewhere", tmp_path / ".venv"
    there.mkdir()
    use_as_venv(venv, monkeypatch)
    if holds == "the environment of another checkout":
        (there / ".autopilot-stamp").write_text(stamp_of("/elsewhere"))
    elif holds == "one that is being made":
        (there / ".autopilot-making").write_text("/elsewhere")
    else:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", there], check=True)
    before = os.listdir(there)
    venv.symlink_to(there)
    assert bootstrap.venv_state(()) == "foreign"
    bootstrap.clear_the_place("foreign")
    assert os.listdir(there) == before and not os.path.lexists(venv)
    (aside,) = tmp_path.glob(".venv.old-*")
    assert aside.is_symlink() and aside.samefile(there)


@pytest.mark.parametrize("holds", ["nothing yet", "what a killed start left", "an environment whose Python is gone"])
def test_a_link_to_this_checkouts_own_environment_is_filled_where_it_leads_to(tmp_path, monkeypatch, holds):
    there, venv = tmp_path / "on another disk", tmp_path / ".venv"
    there.mkdir()
    use_as_venv(venv, monkeypatch)
    if holds == "what a killed start left":
        (there / ".autopilot-making").write_text(bootstrap.ROOT)
    elif holds == "an environment whose Python is gone":
        (there / ".autopilot-stamp").write_text(stamp_of(bootstrap.ROOT))
    venv.symlink_to(there)
    assert bootstrap.venv_state(()) == "half-made"
    bootstrap.clear_the_place("half-made")
    assert venv.is_symlink() and os.listdir(there) == [".autopilot-making"]


@each_kind
def test_what_is_no_file_makes_way_and_a_venv_that_is_no_folder_is_set_aside(tmp_path, monkeypatch, put):
    places = {"VENV": ".venv", "FETCHED": ".venv/.fetched", "LOCK": "logs/lock", "LOG": "logs/log"}
    places |= {"VENV_PYTHON": ".venv/bin/python", "STAMP": ".venv/.stamp", "MAKING": ".venv/.making"}
    for name, place in places.items():
        monkeypatch.setattr(bootstrap, name, str(tmp_path / place))
    monkeypatch.setattr(bootstrap, "run_logged", lambda command, log, lock: log.write("called\n") - 7)
    monkeypatch.setattr(bootstrap, "install_packages", lambda extras, log, lock: 0)

    def set_up(state: str) -> None:
        with bootstrap.only_one_start() as lock:
            assert bootstrap.venv_state(()) == state
            bootstrap.install(state, [], lock)
        assert bootstrap.read_json(bootstrap.STAMP)["extras"] == [] and not os.path.lexists(bootstrap.MAKING)
        assert Path(bootstrap.LOG).read_text() == "called\ncalled\n"

    (tmp_path / "logs").mkdir()
    for path in (bootstrap.VENV, bootstrap.LOCK, bootstrap.LOG):
        put(Path(path))
    set_up("foreign")
    os.remove(bootstrap.STAMP)
    os.remove(bootstrap.LOG)
    for path in (bootstrap.STAMP, bootstrap.MAKING):
        put(Path(path))
    set_up(bootstrap.venv_state(()))
    put(tmp_path / "run.yaml")
    assert bootstrap.setting(["--config", str(tmp_path / "run.yaml")], "run") == "default"


@pytest.mark.slow
def test_uv_installs_where_it_is_on_path_unless_pip_is_configured(project):
    uv = 'echo "$@" >> uv-was-asked; [ ! -e uv-fails ] || exit 2; shift; exec "$4" -m pip "$1" "$5" "$6"'
    project.program("uv", uv, keep=True)
    asked, fails = project.folder / "uv-was-asked", project.folder / "uv-fails"
    assert "with pip" in project.command()[1] and not asked.exists(), "uv does not read pip's configuration"

    project.pip = {}
    project.require(f"leaf@{project.wheels.as_uri()}/leaf-1.0-py3-none-any.whl")
    assert "with uv" in project.command()[1]
    assert asked.read_text() == f"pip install --python {project.venv / 'bin' / 'python'} --editable .\n"

    fails.touch()
    project.require(*project.requires, f"twig@{project.wheels.as_uri()}/twig-1.0-py3-none-any.whl")
    _, said = project.command()
    assert "uv could not install the packages" in said and project.has("twig"), "pip does what uv cannot"


@pytest.mark.fast
def test_a_disk_without_room_for_pytorch_is_mentioned_before_anything_is_fetched(monkeypatch):
    for free, words in ((10e9, ""), (0.7e9, " (only 0.7 GB are free)")):
        monkeypatch.setattr(shutil, "disk_usage", lambda path, free=free: SimpleNamespace(free=free))
        fetched = bootstrap.size_of_torch(with_cuda=False)
        assert fetched == f"PyTorch comes without CUDA: about 0.4 GB to download, 1.3 GB on disk{words}."


PIP_LOG = """\
Obtaining file:///work/h4
Processing /opt/wheels/torch-2.13.0+cpu-cp311-cp311-manylinux_2_28_x86_64.whl (from nanogpt-autopilot==0.2.0)
Collecting prefect<3.10,>=3.8.8 (from nanogpt-autopilot==0.2.0)
  Obtaining dependency information for prefect<3.10,>=3.8.8 from https://pypi.org/prefect-3.9.1-py3-none-any.whl.metadata
  Downloading prefect-3.9.1-py3-none-any.whl.metadata (13 kB)
Collecting sympy>=1.13.3 (from torch==2.13.0+cpu)
  Using cached sympy-1.14.0-py3-none-any.whl.metadata (12 kB)
Using cached sympy-1.14.0-py3-none-any.whl (6.3 MB)
Downloading prefect-3.9.1-py3-none-any.whl (7.1 MB)
"""
UV_LOG = """\
Using Python 3.11.7 environment at: v2
Resolved 141 packages in 3.00s
Downloading prefect (6.7MiB)
Downloading torch (1.1GiB)
 Downloaded prefect
"""


@pytest.mark.fast
@pytest.mark.parametrize(
    "log, line",
    [
        ("", "  looking which versions there are, 0:00"),
        (PIP_LOG, "  fetched 2 of 3 packages found so far, 5 MB, 0:00"),
        (PIP_LOG + "Installing collected packages: sympy, torch, prefect\n", "  installed 1 of 3 packages, 0:00"),
        (UV_LOG, "  fetching 141 packages, 7 MB of the large ones so far, 0:00"),
        (UV_LOG + "Prepared 140 packages in 16.83s\n", "  installed 1 of 140 packages, 0:00"),
    ],
)
def test_progress_is_read_from_what_pip_and_uv_print(log, line, tmp_path, monkeypatch):
    monkeypatch.setattr(bootstrap, "VENV", str(tmp_path / "[venv]"))
    monkeypatch.setattr(bootstrap, "FETCHED", str(tmp_path / "fetched"))
    monkeypatch.setattr(bootstrap, "LOG", str(tmp_path / "log"))
    packages = tmp_path / "[venv]" / "lib" / "python3.11" / "site-packages"
    (packages / "pip-23.2.1.dist-info").mkdir(parents=True)
    (tmp_path / "log").write_text("Resolved 5 packages in 1s\n" + log)
    progress = bootstrap.Progress(log_start=len("Resolved 5 packages in 1s\n"))
    (packages / "sympy-1.14.0.dist-info").mkdir()
    if log:
        (tmp_path / "fetched" / "pip-unpack-1").mkdir(parents=True)
        (tmp_path / "fetched" / "pip-unpack-1" / "sympy.whl").write_bytes(bytes(5_000_000))
    assert progress.line() == line


QUICK_NEWS = """
from flows import bootstrap
bootstrap.NEWS_INTERVAL = bootstrap.REDRAW_INTERVAL = 0.1
bootstrap.ensure("flows.command", [])
"""


@pytest.mark.slow
def test_two_starts_at_once_make_one_environment_and_progress_is_lines_in_a_pipe(project):
    starts = [project.start("-c", QUICK_NEWS) for _ in range(2)]
    ends = [(*start.communicate(timeout=120), start.returncode) for start in starts]
    assert [code for *_, code in ends] == [0, 0]
    said = "".join(stderr for _, stderr, _ in ends)
    assert said.count("Making .venv") == 1
    assert re.search(r"^  (fetched|installed) \d+ of \d+ packages.*, 0:\d\d\n", said, re.MULTILINE), said
    assert "\r" not in said


@pytest.mark.slow
def test_a_persons_own_venv_is_filled_and_progress_is_one_line_on_a_terminal(project):
    subprocess.run([BASE_PYTHON, "-m", "venv", "--without-pip", project.venv], check=True)
    (project.venv / "precious").touch()
    terminal, end = os.openpty()
    process = project.start("-c", QUICK_NEWS, stderr=end)
    os.close(end)
    said = b""
    with contextlib.suppress(OSError):  # its end is an error here
        while part := os.read(terminal, 4096):
            said += part
    process.communicate(timeout=60)
    assert b"Bringing .venv up to date" in said and (project.venv / "precious").exists() and project.has("leaf")
    redrawn = next(line for line in said.decode().split("\r\n") if "\x1b[K" in line)
    assert re.search(r"(fetched|installed) \d+ of \d+ packages", redrawn), redrawn
    assert redrawn.count("\r\x1b[K  ") > 1 and redrawn.split("\x1b[K")[-1].startswith("Preparing the pages")
    seen, said_again = project.command()
    assert (seen["prefix"], said_again) == (str(project.venv), "")


@pytest.mark.slow
def test_an_old_python_goes_on_with_a_newer_one_and_what_is_a_persons_own_is_set_aside_or_left_alone(project):
    """A .venv without a Python, and the activated environment (that of these tests), which lacks something."""
    project.program("python3.13", "echo 'pyenv: python3.13: command not found'; exit 127")
    project.program("python3.12", f'exec "{BASE_PYTHON}" "$@"')
    project.venv.mkdir()
    (project.venv / "precious").touch()
    code, stdout, said = project.run("-c", OLD_PYTHON)
    assert code == 0, said
    assert "python3.12 is used instead" in said
    assert json.loads(stdout)["argv"] == ["--budget", "10m"]
    (aside,) = project.folder.glob(".venv.old-*")
    assert (aside / "precious").exists()
    code, stdout, said = project.run("-c", OLD_PYTHON)
    assert (code, said) == (0, ""), "once .venv is there, an old Python finds it at once"

    seen, said = project.command(python=sys.executable)
    assert seen["prefix"] == str(project.venv)
    if sys.prefix != sys.base_prefix:
        assert "activated environment lacks leaf" in said


def test_an_old_python_asks_uv(project):
    project.program("uv", f'[ "$2" = find ] && echo "{BASE_PYTHON}"')
    code, stdout, said = project.run(
        "-c", OLD_PYTHON.replace("ensure(", "ensure; from flows import bootstrap\nprint(bootstrap.find_python(), ")
    )
    assert code == 0 and stdout.startswith(BASE_PYTHON) and "uv's" in said


def test_no_usable_python_is_one_line_that_says_what_to_install(project):
    project.program("git", "exit 0")
    code, stdout, said = project.run("-c", OLD_PYTHON)
    assert (code, stdout) == (2, "")
    assert said.count("\n") == 1 and "3.9.6" in said and "install" in said
    assert not project.venv.exists()


def test_python_without_ensurepip_is_one_line_that_names_the_package(project):
    project.program("git", "exit 0")
    lacking = "from flows import bootstrap; bootstrap.can_make_environments = lambda python: False; "
    code, _, said = project.run("-c", lacking + "bootstrap.ensure('flows.command', [])")
    assert code == 2 and said.count("\n") == 1
    assert f"python{sys.version_info[0]}.{sys.version_info[1]}-venv" in said


def test_no_bootstrap_leaves_everything_alone(project):
    seen, said = project.command("--no-bootstrap", "x")
    assert seen["prefix"] != str(project.venv) and seen["argv"] == ["--no-bootstrap", "x"]
    assert said == "" and not project.venv.exists()


def test_an_environment_that_has_everything_is_used_as_it_is(project):
    pytest.importorskip("packaging")
    project.require("packaging>=20", 'leaf; sys_platform == "nowhere"')
    seen, said = project.command("x", python=sys.executable)
    assert (seen["prefix"], said) == (sys.prefix, "") and not project.venv.exists()


@pytest.mark.fast
def test_missing_compares_versions(tmp_path, monkeypatch):
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["packaging>=20", "packaging>=2000", "no-such-package", "pytest!=0.1"]\n'
        '[project.optional-dependencies]\nmore = ["no-such-extra"]\n'
    )
    monkeypatch.setattr(bootstrap, "PYPROJECT", str(tmp_path / "pyproject.toml"))
    assert bootstrap.missing() == ["packaging>=2000", "no-such-package"]
    assert bootstrap.missing(["more"])[-1] == "no-such-extra"


@pytest.mark.fast
@pytest.mark.parametrize("arguments, in_file, wanted", [
    ([], "", ""), (["--on-hangup", "save"], "", "save"), (["--on-hangup=save"], "", "save"),
    (["--set", "on_hangup=save"], "on_hangup: continue", "save"), ([], "run: x\non_hangup: 'save'  # words", "save"),
    (["--on-hangup", "continue"], "on_hangup: save", "continue"), ([], "# on_hangup: save", ""),
])  # fmt: skip
def test_what_a_closed_terminal_does_is_known_without_a_yaml_reader(tmp_path, monkeypatch, arguments, in_file, wanted):
    monkeypatch.setattr(bootstrap, "ROOT", str(tmp_path))  # no configs/runs/default.yaml there
    (tmp_path / "my run.yaml").write_text(in_file)
    assert bootstrap.setting([*arguments, "--config", str(tmp_path / "my run.yaml")], "on_hangup") == wanted
    assert (
        bootstrap.setting(["--config"], "on_hangup")
        == bootstrap.setting(["--config", "absent.yaml"], "on_hangup")
        == ""
    )


@pytest.mark.fast
@pytest.mark.parametrize(
    "path",
    [
        *("flows/__init__.py", "flows/bootstrap.py", "flows/full_run.py", "tests/__init__.py", "tests/__main__.py"),
        *("flows/cli/answers.py", "flows/cli/arguments.py", "flows/context/command_words.py"),
        *("nanogpt/__init__.py", "nanogpt/faults.py", "nanogpt/standard_streams.py"),
    ],
)
def test_what_runs_before_the_environment_parses_on_old_pythons(path):
    file = CHECKOUT / path
    if not file.exists():
        pytest.skip(f"{path} is not there")
    ast.parse(file.read_text(), feature_version=(3, 7))


@pytest.mark.parametrize("rot", ["[1]", '{"python": [3, 11], "chec?out": "/x"}', "[" * 100_000])
def test_a_rotten_stamp_is_none(tmp_path, monkeypatch, rot):
    monkeypatch.setattr(bootstrap, "STAMP", str(tmp_path / "stamp"))
    (tmp_path / "stamp").write_text(rot)
    assert bootstrap.read_stamp() is None and bootstrap.stamped_extras() == set()
    assert bootstrap.own_venv_suits(()) in (True, False)
