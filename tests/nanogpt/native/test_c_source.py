"""The library in C is built once for a machine, whoever builds at the same time and whatever becomes of the file."""

import errno
import os
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nanogpt.decoders.c_decoder import _typed
from nanogpt.native import c_source
from nanogpt.native.c_source import CSource
from nanogpt.native.cache_folder import VARIABLE, cache_folder
from nanogpt.native.unavailable import Unavailable

CHECKOUT = Path(__file__).parents[3]
QUICK = "int panel(void) { return 7; }\n"  # instead of the decoder, which takes seconds to build


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    folder = tmp_path / "cache"
    monkeypatch.setenv(VARIABLE, str(folder))
    return folder


@pytest.fixture
def source(tmp_path) -> CSource:
    path = tmp_path / "quick.c"
    path.write_text(QUICK)
    return CSource(path, "quick", seconds=1)


@pytest.fixture
def compilations(monkeypatch) -> list[list[str]]:
    """The commands that compile."""
    seen: list[list[str]] = []
    run = c_source._run

    def counted(command, seconds):
        if "-shared" in command:
            seen.append(list(command))
        return run(command, seconds)

    monkeypatch.setattr(c_source, "_run", counted)
    return seen


def compiler(path: Path, script: str) -> str:
    """A compiler that is a shell script."""
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
    return str(path)


def test_built_once(cache, source, compilations):
    messages: list[str] = []
    assert [source.load(messages.append).panel() for _ in range(2)] == [7, 7]
    assert len(compilations) == 1
    assert messages == [source.building]


def test_another_source_or_compiler_is_built_anew(cache, source, compilations, tmp_path, monkeypatch):
    source.load()
    source.path.write_text(QUICK.replace("7", "8"))
    assert source.load().panel() == 8
    monkeypatch.setenv("CC", compiler(tmp_path / "mycc", 'exec cc "$@"'))
    assert source.load().panel() == 8
    assert len(compilations) == 3


@pytest.mark.parametrize("damage", ["cut", "flip", "gone", "note"])
def test_a_damaged_library_is_built_anew(cache, source, compilations, damage):
    source.load()
    [library], [note] = cache.glob("*.so"), cache.glob("*.json")
    match damage:
        case "cut":  # mapping it would end the process at the first page that is missing
            content = library.read_bytes()
            library.unlink()  # the loaded one keeps its own
            library.write_bytes(content[:100])
        case "flip":
            content = bytearray(library.read_bytes())
            content[-1] ^= 1
            library.unlink()
            library.write_bytes(content)
        case "gone":
            library.unlink()
        case "note":
            note.write_text("{")
    assert source.load().panel() == 7
    assert len(compilations) == 2


def test_flags_that_a_compiler_does_not_know_are_left_out_and_give_another_identity(
    cache, source, tmp_path, monkeypatch
):
    """The bits may be others."""
    asked = tmp_path / "asked"
    picky = f'case "$*" in *native*) test -e {asked} || {{ echo "error: unknown value" >&2; exit 1; }};; esac'
    monkeypatch.setenv("CC", compiler(tmp_path / "picky", f'{picky}; exec cc "$@"'))
    key = source.key([str(tmp_path / "picky")])
    others = [source.build() for _ in range(2)]
    assert [built.library.panel() for built in others] == [7, 7]
    assert others[0].identity == others[1].identity != key
    for path in cache.iterdir():
        path.unlink()
    asked.touch()
    assert [source.build().identity for _ in range(2)] == [key, key]


KILLED = {
    "by the terminal": "kill -INT $$",
    "by a shell": "exit 137",
    "a part of gcc": "echo 'cc: fatal error: Killed signal terminated program cc1' >&2; exit 1",
    "a part of clang": "echo 'clang: error: unable to execute command: Killed' >&2; exit 254",
    "too many processes": "echo 'collect2: fatal error: vfork: Resource temporarily unavailable' >&2; exit 1",
    "full disk": "echo '/tmp/ccX.s: fatal error: cannot write: No space left on device' >&2; exit 1",
    "memory": "echo 'cc1: out of memory allocating 65536 bytes' >&2; exit 1",
}


@pytest.mark.parametrize("ending", KILLED.values(), ids=KILLED)
def test_what_befell_a_compiler_once_is_neither_kept_nor_mended_by_other_flags(
    cache, source, compilations, tmp_path, monkeypatch, ending
):
    trouble = tmp_path / "trouble"
    trouble.touch()
    script = f'case "$*" in *-O3*) test ! -e {trouble} || {{ {ending}; }};; esac; exec cc "$@"'
    monkeypatch.setenv("CC", compiler(tmp_path / "unlucky", script))
    with pytest.raises(Unavailable):
        source.load()
    assert len(compilations) == 1
    trouble.unlink()
    assert source.build().identity == source.key([str(tmp_path / "unlucky")])


def test_ctrl_c_does_not_reach_the_compiler_of_a_process_that_only_notes_it(cache, source, tmp_path, monkeypatch):
    started = tmp_path / "started"
    slow = f'case "$*" in *--version*) ;; *) touch {started}; sleep 0.5;; esac; exec cc "$@"'
    monkeypatch.setenv("CC", compiler(tmp_path / "slowcc", slow))
    program = (
        "import signal, sys; from pathlib import Path; from nanogpt.native.c_source import CSource; "
        "signal.signal(signal.SIGINT, lambda *now: print('noted')); "
        "print(CSource(Path(sys.argv[1]), 'quick', 1).load().panel())"
    )
    command = [sys.executable, "-c", program, str(source.path)]
    group = subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, start_new_session=True)
    while not started.exists():
        assert group.poll() is None
        time.sleep(0.01)
    os.killpg(group.pid, signal.SIGINT)  # as a terminal does
    assert group.communicate(timeout=60)[0].split() == ["noted", "7"]


def test_what_a_compiler_complains_of_is_said(cache, source, tmp_path, monkeypatch):
    broken = 'test "$1" = --version && exit 0; echo "quick.c:1: error: no stdint.h here" >&2; exit 1'
    monkeypatch.setenv("CC", compiler(tmp_path / "broken", broken))
    with pytest.raises(Unavailable, match=r"could not build it \(quick\.c:1: error: no stdint\.h here\)"):
        source.load()
    assert sorted(path.suffix for path in cache.iterdir()) == [".json", ".lock"]
    monkeypatch.setenv("CC", str(tmp_path / "absent"))
    with pytest.raises(Unavailable, match=r"no C compiler \(.*absent\) is installed"):
        source.load()


@pytest.fixture
def broken(tmp_path, monkeypatch) -> Path:
    """A compiler that answers and builds nothing."""
    script = 'test "$1" = --version && exit 0; echo "quick.c:1: error: no stdint.h here" >&2; exit 1'
    path = Path(compiler(tmp_path / "broken", script))
    monkeypatch.setenv("CC", str(path))
    return path


def tried(source: CSource, compilations: list[list[str]]) -> int:
    """How often a compiler was started for a load that fails."""
    before = len(compilations)
    with pytest.raises(Unavailable, match=r"could not build it \(quick\.c:1: error: no stdint\.h here\)"):
        source.load()
    return len(compilations) - before


def test_a_build_that_failed_is_not_tried_again_and_the_reason_stays(cache, source, compilations, broken):
    assert [tried(source, compilations) for _ in range(3)] == [len(c_source.FLAGS), 0, 0]
    with pytest.raises(Unavailable, match=r"; tried at \d\d:\d\d, to be tried again from \d\d:\d\d on$"):
        source.load()
    source.path.write_text(QUICK.replace("7", "8"))
    assert tried(source, compilations) == len(c_source.FLAGS)


def test_it_is_tried_again_with_a_compiler_that_was_installed_anew(cache, source, compilations, broken):
    tried(source, compilations)
    broken.unlink()
    compiler(broken, 'test "$1" = --version || exec cc "$@"')
    assert source.load().panel() == 7


def test_it_is_tried_again_after_a_while(cache, source, compilations, broken, monkeypatch):
    """Headers may have been installed, which no compiler shows."""
    tried(source, compilations)
    monkeypatch.setattr(c_source, "SECONDS_TO_TRY_AGAIN", 0)
    assert tried(source, compilations) == len(c_source.FLAGS)


def test_what_a_killed_build_has_left_is_removed(cache, source, tmp_path, monkeypatch):
    started = tmp_path / "started"
    slow = f'case "$*" in *--version*) ;; *) touch {started}; sleep 10;; esac'
    monkeypatch.setenv("CC", compiler(tmp_path / "slowcc", slow))
    program = (
        "import sys; from pathlib import Path; from nanogpt.native.c_source import CSource; "
        "CSource(Path(sys.argv[1]), 'quick', 1).load()"
    )
    killed = subprocess.Popen([sys.executable, "-c", program, str(source.path)], cwd=CHECKOUT, start_new_session=True)
    while not started.exists():
        assert killed.poll() is None
        time.sleep(0.01)
    os.killpg(killed.pid, signal.SIGKILL)
    killed.wait()
    assert [path for path in cache.iterdir() if path.is_dir()]
    monkeypatch.setenv("CC", "cc")
    assert source.load().panel() == 7
    assert not [path for path in cache.iterdir() if path.is_dir()]


@pytest.mark.parametrize("exit_code", [0, 1])
def test_a_compiler_may_print_anything(cache, source, tmp_path, monkeypatch, exit_code):
    script = f"printf '\\377\\033[2J\\n' >&2; printf '\\376'; exit {exit_code}"
    monkeypatch.setenv("CC", compiler(tmp_path / "noisy", script))
    with pytest.raises(Unavailable) as refusal:
        source.load()
    assert "\033" not in str(refusal.value)


def test_half_a_library_of_a_compiler_that_reports_no_error_does_not_end_the_process(
    cache, source, tmp_path, monkeypatch
):
    halves = 'test "$1" = --version && exit 0; cc "$@"; while test "$1" != -o; do shift; done; truncate -s 9000 "$2"'
    monkeypatch.setenv("CC", compiler(tmp_path / "halves", halves))
    program = (
        "import sys; from pathlib import Path; from nanogpt.native.c_source import CSource, Unavailable\n"
        "try: CSource(Path(sys.argv[1]), 'quick', 1).load()\n"
        "except Unavailable as reason: print(reason)"
    )
    loading = subprocess.run(
        [sys.executable, "-c", program, str(source.path)], cwd=CHECKOUT, capture_output=True, text=True
    )
    assert loading.returncode == 0, "it was ended by a signal"
    assert "cannot be loaded" in loading.stdout
    monkeypatch.setenv("CC", "cc")
    assert source.load().panel() == 7


def test_what_is_built_depends_on_libc_and_not_on_the_persons_language(cache, source, tmp_path, monkeypatch):
    """Its logarithm is libc's. A resumed training would otherwise report that it computes otherwise."""
    speaks = compiler(tmp_path / "speaks", 'echo "$LC_ALL"')
    monkeypatch.setenv("LC_ALL", "C")
    key = source.key([speaks])
    monkeypatch.setenv("LC_ALL", "de_DE.UTF-8")
    assert source.key([speaks]) == key
    monkeypatch.setattr(c_source.platform, "libc_ver", lambda: ("glibc", "2.0"))
    assert source.key([speaks]) != key


def test_a_compiler_that_hangs_is_given_up_and_tried_again(cache, source, compilations, tmp_path, monkeypatch):
    monkeypatch.setattr(c_source, "SECONDS", 0.2)
    monkeypatch.setenv("CC", compiler(tmp_path / "hanging", 'test "$1" = --version || exec sleep 60'))
    for _ in range(2):  # the machine may have been busy
        with pytest.raises(Unavailable, match=r"hanging takes longer than 0\.2 s$"):
            source.load()
    assert len(compilations) == 2
    monkeypatch.setattr(c_source, "SECONDS_TO_ANSWER", 0.2)
    monkeypatch.setenv("CC", compiler(tmp_path / "silent", "exec sleep 60"))
    with pytest.raises(Unavailable, match="silent takes longer"):
        source.load()


def test_a_compiler_that_is_given_up_ends_with_all_its_parts(cache, source, tmp_path, monkeypatch):
    part = tmp_path / "part"
    monkeypatch.setattr(c_source, "SECONDS", 0.5)
    script = f'test "$1" = --version || {{ sleep 60 & echo $! > {part}; wait; }}'
    monkeypatch.setenv("CC", compiler(tmp_path / "hanging", script))
    with pytest.raises(Unavailable):
        source.load()
    number, ends = int(part.read_text()), time.monotonic() + 20
    while psutil.pid_exists(number) and psutil.Process(number).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_compiler_reads_nothing_of_what_is_typed(cache, source, tmp_path, monkeypatch):
    monkeypatch.setenv("CC", compiler(tmp_path / "reading", 'test -z "$(head -c 1)" || exit 1; exec cc "$@"'))
    reading, writing = os.pipe()
    os.write(writing, b"ROMEO:")
    typed = os.dup(0)
    os.dup2(reading, 0)
    try:
        assert source.load().panel() == 7
    finally:
        os.dup2(typed, 0)
        for descriptor in (reading, writing, typed):
            os.close(descriptor)


def test_a_mistyped_cc_is_said(cache, source, monkeypatch):
    monkeypatch.setenv("CC", "'gcc")
    with pytest.raises(Unavailable, match="CC='gcc is no command"):
        source.load()


def test_a_library_without_its_functions_is_not_used(cache, source):
    with pytest.raises(Unavailable, match=r"lacks create\(\)"):
        _typed(source.load())


def test_a_full_disk_is_said(cache, source, monkeypatch):
    def fails(*arguments, **options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(c_source.tempfile, "TemporaryDirectory", fails)
    with pytest.raises(Unavailable, match=r"the cache folder .*cache cannot be used \(No space left on device\)"):
        source.load()


def test_code_is_not_loaded_from_a_folder_of_others(source, tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    cache_folder().chmod(0o777)
    with pytest.raises(Unavailable, match="others may write to the cache folder"):
        source.load()


def test_the_folder_is_the_users_own(tmp_path, monkeypatch):
    monkeypatch.setenv(VARIABLE, str(tmp_path / "cache"))
    assert stat.S_IMODE(cache_folder().stat().st_mode) & 0o022 == 0
    monkeypatch.setenv(VARIABLE, str(tmp_path / "file" / "below"))
    (tmp_path / "file").touch()
    with pytest.raises(Unavailable, match="cannot be used"):
        cache_folder()


@pytest.mark.slow
def test_of_two_processes_one_builds(cache, source, tmp_path, monkeypatch):
    log = tmp_path / "log"
    slow = f'case "$*" in *--version*) ;; *) echo built >> {log}; sleep 0.5;; esac; exec cc "$@"'
    monkeypatch.setenv("CC", compiler(tmp_path / "slowcc", slow))
    program = (
        "import sys; from pathlib import Path; from nanogpt.native.c_source import CSource; "
        "print(CSource(Path(sys.argv[1]), 'quick', 1).load().panel())"
    )
    command = [sys.executable, "-c", program, str(source.path)]
    both = [subprocess.Popen(command, cwd=CHECKOUT, stdout=subprocess.PIPE, text=True, env=os.environ) for _ in "ab"]
    assert [process.communicate(timeout=120)[0].strip() for process in both] == ["7", "7"]
    assert source.load().panel() == 7
    assert log.read_text().splitlines() == ["built"]
    assert not [path for path in cache.iterdir() if path.is_dir()]
