"""Milestones tell a run's story in git and leave everything else in the repository as it was."""

import os
import re
import shutil
import stat
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from flows.runner import private_index
from flows.runner.milestones import FILE_LIMIT, Milestones

CHECKOUT = Path(__file__).resolve().parents[2]


@pytest.fixture(autouse=True)
def nobody(tmp_path, monkeypatch):
    """A machine on which git knows nobody and no settings."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(home))
    monkeypatch.setenv("GIT_CONFIG_NOSYSTEM", "1")
    for name in [name for name in os.environ if name.startswith("GIT_") and name != "GIT_CONFIG_NOSYSTEM"]:
        monkeypatch.delenv(name)


def git(folder: Path, *arguments: str) -> str:
    author = ["-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "commit.gpgSign=false"]
    command = ["git", *author, "-c", "core.hooksPath=/dev/null", *arguments]
    return subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True).stdout.strip()


class Home:
    """A repository in the middle of somebody's work, and a run's workspace in it."""

    def __init__(self, folder: Path):
        self.checkout = folder / "checkout"
        self.checkout.mkdir()
        self.state = self.checkout / "state" / "default"
        self.state.mkdir(parents=True)
        git(self.checkout, "init", "-q", "-b", "main")
        self.write(".gitignore", "/state/\n/reports/\n*.secret\n")

    def write(self, name: str, text: str) -> Path:
        path = self.checkout / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def commit_all(self) -> str:
        git(self.checkout, "add", "-A")
        git(self.checkout, "commit", "-qm", "The code")
        return git(self.checkout, "rev-parse", "HEAD")

    def dirty(self) -> None:
        for name in ("staged", "unstaged", "both", "renamed", "mode", "deleted", "removed", "folder", "same"):
            self.write(f"code/{name}.py", f"# {name}\n" * 5)
        self.commit_all()
        self.write("code/staged.py", "staged\n")
        self.write("code/both.py", "staged\n")
        self.write("code/new staged.py", "new\n")
        git(self.checkout, "add", "-A")
        git(self.checkout, "mv", "code/renamed.py", "code/moved.py")
        git(self.checkout, "rm", "-q", "code/removed.py")
        self.write("code/unstaged.py", "unstaged\n")
        self.write("code/both.py", "unstaged\n")
        self.write("code/untracked ü.py", "untracked\n")
        self.write("code/intended.py", "to be added\n")
        git(self.checkout, "add", "-N", "code/intended.py")
        self.write("code/key.secret", "ignored\n")
        (self.checkout / "code" / "mode.py").chmod(0o755)
        (self.checkout / "code" / "deleted.py").unlink()
        (self.checkout / "code" / "link.py").symlink_to("same.py")
        (self.checkout / "code" / "folder.py").unlink()
        self.write("code/folder.py/inside.py", "a folder where a file was\n")

    def milestones(self, run: str = "default") -> Milestones:
        return Milestones(self.checkout, self.checkout, run, self.state)

    def artefact(self, text: str = "{}", name: str = "reports/default/facts.json") -> Path:
        return self.write(name, text)

    def snapshot(self) -> dict:
        """All that a person may call theirs: work tree, index, HEAD, configuration, refs but for autopilot/*."""
        state, own = {}, self.state.relative_to(self.checkout)
        for path in sorted(self.checkout.rglob("*")):
            name = path.relative_to(self.checkout)
            in_git = name.parts[0] == ".git"
            objects = in_git and ("objects" in name.parts or "autopilot" in name.parts)
            if objects or name.is_relative_to(own) or (in_git and path.is_dir()):
                continue
            content = os.readlink(path) if path.is_symlink() else path.read_bytes() if path.is_file() else None
            status = path.lstat()
            state[str(name)] = (content, stat.filemode(status.st_mode), status.st_mtime_ns if path.is_file() else 0)
        return state

    def log(self, branch: str = "autopilot/default") -> list[str]:
        return git(self.checkout, "log", "--format=%s", branch).splitlines()

    def tree(self, commit: str = "autopilot/default") -> dict[str, str]:
        paths = git(self.checkout, "ls-tree", "-r", "-z", "--name-only", commit).split("\0")
        return {path: git(self.checkout, "show", f"{commit}:{path}") for path in paths if path}


@pytest.fixture
def home(tmp_path) -> Home:
    return Home(tmp_path)


def made(milestones: Milestones, title: str, files=(), body: str = "") -> str:
    sha = milestones.commit(title, body, list(files))
    assert sha, milestones.reason
    return sha


def test_staged_unstaged_and_untracked_work_stays_as_it_is(home):
    home.dirty()
    artefact = home.artefact()
    status = git(home.checkout, "status", "--porcelain")  # which itself may refresh the index
    before = home.snapshot()
    milestones = home.milestones()
    made(milestones, "Data ready", [artefact])
    made(milestones, "Model trained", [artefact])
    assert home.snapshot() == before
    assert git(home.checkout, "status", "--porcelain") == status


def test_a_later_milestone_takes_few_commands_however_many_its_files(home, monkeypatch):
    """Each takes 5 ms, and the run waits for them."""
    home.commit_all()
    milestones, commands = home.milestones(), []
    made(milestones, "Data ready")
    run = private_index.PrivateIndex._bytes

    def counted(index, *words, **more):
        commands.append(words[0])
        return run(index, *words, **more)

    monkeypatch.setattr(private_index.PrivateIndex, "_bytes", counted)
    made(milestones, "Model trained", [home.artefact(name, f"reports/{name}") for name in "abcdef"])
    assert len(commands) <= 12, commands
    assert {f"runs/default/reports/{name}" for name in "abcdef"} <= home.tree().keys()


def test_the_first_milestone_holds_the_changes_to_the_files_of_the_last_commit(home):
    home.dirty()
    made(home.milestones(), "Data ready", [home.artefact("facts")])
    tree = home.tree()
    assert tree["runs/default/reports/default/facts.json"] == "facts"
    code = {name.removeprefix("code/"): text for name, text in tree.items() if name.startswith("code/")}
    assert sorted(code) == ["both.py", "mode.py", "same.py", "staged.py", "unstaged.py"]
    assert code["both.py"] == "unstaged" and code["staged.py"] == "staged"
    assert git(home.checkout, "ls-tree", "autopilot/default", "code/mode.py").startswith("100755")
    body = git(home.checkout, "log", "-1", "--format=%b", "autopilot/default")
    assert re.search(r"Code: commit [0-9a-f]{10}, with uncommitted changes to .* and \d+ more\.", body)
    assert "facts.json" not in body
    staged = [f"code/{name} (staged, but in no commit)" for name in ("intended.py", "moved.py", "new staged.py")]
    assert f"Not in this copy of the code: {', '.join(staged)}." in body


def secret_in(home: Home) -> bool:
    """Whether any object in the repository that the branch reaches holds the secret, hunter2."""
    objects = git(home.checkout, "rev-list", "--objects", "autopilot/default").splitlines()
    return any("hunter2" in git(home.checkout, "cat-file", "-p", line.split()[0]) for line in objects)


def test_what_git_does_not_track_is_in_no_milestone(home):
    home.write("code.py", "x")
    home.write("tracked.secret", "of everybody\n")
    home.commit_all()
    git(home.checkout, "add", "-f", "tracked.secret")
    git(home.checkout, "commit", "-qm", "ignored, but tracked")
    home.write(".env", "PASSWORD=hunter2")
    home.write("keys/id_rsa", "hunter2")
    home.write("staged.env", "hunter2")
    git(home.checkout, "add", "staged.env")
    home.write("intended.env", "hunter2")
    git(home.checkout, "add", "-N", "intended.env")
    home.write("tracked.secret", "hunter2")
    home.write("code.py", "y")
    milestones = home.milestones()
    made(milestones, "Data ready", [home.artefact()])
    made(milestones, "Model trained", [home.artefact("{1}")])
    made(home.milestones(), "Evaluated", [home.artefact("{2}")])
    assert set(home.tree()) == {".gitignore", "code.py", "tracked.secret", "runs/default/reports/default/facts.json"}
    assert home.tree()["code.py"] == "y" and home.tree()["tracked.secret"] == "of everybody"
    assert not secret_in(home)
    assert "tracked.secret (ignored)" in git(home.checkout, "log", "-1", "--format=%b", "autopilot/default")


@pytest.mark.parametrize("bit", ["--assume-unchanged", "--skip-worktree"])
@pytest.mark.parametrize("staged", [False, True], ids=["", "staged before"])
def test_changes_that_git_was_asked_not_to_see_are_left_out(home, bit, staged):
    home.write("settings.py", "password = ''\n")
    home.commit_all()
    if staged:
        home.write("settings.py", "password = 'hunter2 at work'\n")
        git(home.checkout, "add", "settings.py")
    git(home.checkout, "update-index", bit, "settings.py")
    home.write("settings.py", "password = 'hunter2'\n")
    made(home.milestones(), "Data ready")
    assert home.tree()["settings.py"] == "password = ''" and not secret_in(home)


def test_links_and_folders_in_the_place_of_tracked_files_bring_nothing_along(home, tmp_path):
    (tmp_path / "private").mkdir()
    (tmp_path / "private" / "a.py").write_text("hunter2")
    for name in ("link.py", "linked/a.py", "folder.py", "repository.py", "fifo.py"):
        home.write(name, f"the code of {name}")
    home.commit_all()
    for name in ("link.py", "linked/a.py", "folder.py", "repository.py", "fifo.py"):
        (home.checkout / name).unlink()
    (home.checkout / "link.py").symlink_to(tmp_path / "private" / "a.py")
    (home.checkout / "linked").rmdir()
    (home.checkout / "linked").symlink_to(tmp_path / "private")
    home.write("folder.py/key", "hunter2")
    os.mkfifo(home.checkout / "fifo.py")
    git(home.checkout, "init", "-q", "repository.py")
    home.write("repository.py/key", "hunter2")
    git(home.checkout / "repository.py", "add", "-A")
    git(home.checkout / "repository.py", "commit", "-qm", "theirs")
    sha = made(home.milestones(), "Data ready")
    entries = dict(reversed(line.split("\t")) for line in git(home.checkout, "ls-tree", "-r", sha).splitlines())
    assert set(entries) == {".gitignore", "link.py", "fifo.py"}
    assert entries["link.py"].startswith("120000")
    assert git(home.checkout, "show", f"{sha}:link.py") == str(tmp_path / "private" / "a.py")  # the link, not its file
    assert git(home.checkout, "show", f"{sha}:fifo.py") == "the code of fifo.py"
    assert "fifo.py (not a plain file)" in git(home.checkout, "log", "-1", "--format=%b", sha)


def test_of_a_submodule_only_its_commit_is_recorded(home, tmp_path):
    home.commit_all()
    git(tmp_path, "init", "-q", "library")
    (tmp_path / "library" / "code.py").write_text("theirs")
    git(tmp_path / "library", "add", "-A")
    git(tmp_path / "library", "commit", "-qm", "theirs")
    git(home.checkout, "-c", "protocol.file.allow=always", "submodule", "--quiet", "add", str(tmp_path / "library"))
    home.commit_all()
    home.write("library/code.py", "hunter2")
    home.write("library/key", "hunter2")
    made(home.milestones(), "Data ready")
    assert not secret_in(home)
    assert git(home.checkout, "rev-parse", "autopilot/default:library") == git(
        home.checkout, "rev-parse", "HEAD:library"
    )
    git(home.checkout / "library", "commit", "-qam", "mine")
    made(home.milestones(), "Data ready", body="with the submodule elsewhere")
    now = git(home.checkout / "library", "rev-parse", "HEAD")
    assert git(home.checkout, "rev-parse", "autopilot/default:library") == now


def test_a_sparse_checkout_deletes_nothing(home):
    for name in ("here/a.py", "away/b.py"):
        home.write(name, "x")
    home.commit_all()
    git(home.checkout, "sparse-checkout", "set", "here")
    home.write("here/a.py", "y")
    assert not (home.checkout / "away").exists()
    made(home.milestones(), "Data ready")
    assert home.tree() == {".gitignore": home.tree()[".gitignore"], "here/a.py": "y", "away/b.py": "x"}


def test_the_log_reads_as_the_story_of_the_run(home):
    head = home.commit_all()
    milestones = home.milestones()
    first = made(milestones, "Environment set up", body="2 cores, 8 GB")
    second = made(milestones, "Data\nready", [home.artefact()])
    assert home.log() == ["Data ready", "Environment set up", "The code"]
    assert git(home.checkout, "rev-parse", f"{first}^") == head
    assert git(home.checkout, "rev-parse", f"{second}^") == first
    assert git(home.checkout, "rev-parse", "autopilot/default") == second
    message = git(home.checkout, "log", "-1", "--format=%B", first)
    assert message == f"Environment set up\n\n2 cores, 8 GB\n\nCode: commit {head[:10]}."
    assert [(commit.sha, commit.title) for commit in milestones.commits()] == [
        (first, "Environment set up"),
        (second, "Data ready"),
    ]


def test_a_later_session_goes_on_with_the_branch(home):
    home.commit_all()
    first = made(home.milestones(), "Data ready", [home.artefact("1", "reports/a.json")])
    second = made(home.milestones(), "Model trained", [home.artefact("2", "reports/b.json")])
    assert git(home.checkout, "rev-parse", f"{second}^") == first
    assert set(home.tree()) == {".gitignore", "runs/default/reports/a.json", "runs/default/reports/b.json"}


def test_a_later_session_records_the_code_that_it_ran(home):
    home.commit_all()
    made(home.milestones(), "Data ready", [home.artefact()])
    home.write("code.py", "new")
    head = home.commit_all()
    made(home.milestones(), "Model trained")
    assert home.tree()["code.py"] == "new"
    assert "runs/default/reports/default/facts.json" in home.tree()
    assert f"Code: commit {head[:10]}." in git(home.checkout, "log", "-1", "--format=%b", "autopilot/default")


def test_within_a_session_code_edited_later_is_not_taken_for_what_ran(home):
    home.commit_all()
    milestones = home.milestones()
    made(milestones, "Data ready")
    home.write("edited.py", "while it ran")
    made(milestones, "Model trained", [home.artefact()])
    assert "edited.py" not in home.tree()


def test_the_same_milestone_made_again_adds_nothing(home):
    home.commit_all()
    artefact = home.artefact()
    first = made(home.milestones(), "Data ready", [artefact])
    assert made(home.milestones(), "Data ready", [artefact]) == first
    assert home.log() == ["Data ready", "The code"]


def test_a_detached_head_stays_detached(home):
    head = home.commit_all()
    git(home.checkout, "checkout", "-q", "--detach")
    artefact = home.artefact()
    before = home.snapshot()
    sha = made(home.milestones(), "Data ready", [artefact])
    assert home.snapshot() == before
    assert (home.checkout / ".git" / "HEAD").read_text().strip() == head
    assert git(home.checkout, "rev-parse", f"{sha}^") == head


def test_a_repository_without_a_commit(home):
    home.write("code.py", "x")
    before = home.snapshot()
    made(home.milestones(), "Data ready")
    assert home.snapshot() == before
    assert home.log() == ["Data ready"]
    assert home.tree() == {}
    made(home.milestones(), "Model trained", [home.artefact()])
    assert set(home.tree()) == {"runs/default/reports/default/facts.json"}


def test_a_linked_worktree(home, tmp_path):
    home.commit_all()
    linked = tmp_path / "linked"
    git(home.checkout, "worktree", "add", "-q", "-b", "side", str(linked))
    (linked / "code.py").write_text("in the linked tree")
    git(linked, "add", "-A")
    (linked / ".gitignore").write_text("changed in the linked tree")
    index = home.checkout / ".git" / "worktrees" / "linked" / "index"
    before, index_before = home.snapshot(), index.read_bytes()
    made(Milestones(linked, linked, "default", linked / "state" / "default"), "Data ready")
    assert home.snapshot() == before
    assert index.read_bytes() == index_before
    assert home.tree() == {".gitignore": "changed in the linked tree"}
    assert git(linked, "symbolic-ref", "HEAD") == "refs/heads/side"


def test_nobody_known_to_git_is_the_autopilot(home):
    home.commit_all()
    sha = made(home.milestones(), "Data ready")
    people = git(home.checkout, "log", "-1", "--format=%an <%ae> %cn <%ce>", sha)
    assert people == "nanogpt-autopilot <autopilot@localhost> nanogpt-autopilot <autopilot@localhost>"


def test_a_person_known_to_git_is_the_author(home):
    home.commit_all()
    git(home.checkout, "config", "user.name", "Grace")
    git(home.checkout, "config", "user.email", "grace@example.org")
    sha = made(home.milestones(), "Data ready")
    assert git(home.checkout, "log", "-1", "--format=%an <%ae>", sha) == "Grace <grace@example.org>"


def test_a_name_that_was_made_empty_is_none(home):
    """Git takes the last value of a key, and refuses an empty name."""
    home.commit_all()
    for name in ("Ann", ""):
        git(home.checkout, "config", "--add", "user.name", name)
    git(home.checkout, "config", "user.email", "ann@example.org")
    sha = made(home.milestones(), "Data ready")
    assert git(home.checkout, "log", "-1", "--format=%an", sha) == "nanogpt-autopilot"


@pytest.mark.parametrize("age, is_left_behind", [(3600, True), (0, False)])
def test_the_lock_that_a_killed_git_has_left_on_our_branch_is_removed(home, age, is_left_behind):
    home.commit_all()
    made(home.milestones(), "Data ready")
    lock = home.checkout / ".git" / "refs" / "heads" / "autopilot" / "default.lock"
    lock.touch()
    os.utime(lock, (time.time() - age,) * 2)
    milestones = home.milestones()
    assert (milestones.commit("Trained", "", []) is not None) == is_left_behind, milestones.reason
    assert lock.exists() != is_left_behind


@pytest.mark.parametrize("name", ["  ", "<>", "."])
def test_a_name_of_which_git_leaves_nothing_is_none(home, name):
    home.commit_all()
    git(home.checkout, "config", "user.name", name)
    git(home.checkout, "config", "user.email", "ann@example.org")
    sha = made(home.milestones(), "Data ready")
    assert git(home.checkout, "log", "-1", "--format=%an", sha) == "nanogpt-autopilot"


def test_an_empty_name_in_the_environment_is_none(home, monkeypatch):
    home.commit_all()
    git(home.checkout, "config", "user.name", "Ann")
    git(home.checkout, "config", "user.email", "ann@example.org")
    monkeypatch.setenv("GIT_AUTHOR_NAME", "")
    sha = made(home.milestones(), "Data ready")
    assert git(home.checkout, "log", "-1", "--format=%an", sha) == "Ann"


@pytest.mark.parametrize("date", ["nonsense", "2001-02-03T04:05:06"])
def test_a_date_in_the_environment_is_not_the_milestones(home, monkeypatch, date):
    home.commit_all()
    monkeypatch.setenv("GIT_AUTHOR_DATE", date)
    monkeypatch.setenv("GIT_COMMITTER_DATE", date)
    sha = made(home.milestones(), "Data ready")
    monkeypatch.delenv("GIT_AUTHOR_DATE")
    monkeypatch.delenv("GIT_COMMITTER_DATE")
    written = git(home.checkout, "log", "-1", "--format=%at %ct", sha).split()
    assert all(abs(int(seconds) - time.time()) < 100 for seconds in written)


def test_what_a_terminal_would_obey_is_an_escape_in_the_message(home):
    home.commit_all()
    home.milestones().commit("data: a\x1b[2J.txt", "of b\x1b]0;t\a.txt", [])
    assert "data: a\\x1b[2J.txt" in (message := git(home.checkout, "log", "-1", "--format=%B", "autopilot/default"))
    assert "\x1b" not in message


def test_a_store_of_objects_in_the_environment_is_not_the_milestones(home, tmp_path, monkeypatch):
    home.commit_all()
    (tmp_path / "objects").mkdir()
    for name in ("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES"):
        monkeypatch.setenv(name, str(tmp_path / "objects"))
    monkeypatch.setenv("GIT_NAMESPACE", "another")
    sha = home.milestones().commit("Data ready", "", [])
    for name in ("GIT_OBJECT_DIRECTORY", "GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_NAMESPACE"):
        monkeypatch.delenv(name)
    assert sha
    assert home.log() == ["Data ready", "The code"]
    assert not list((tmp_path / "objects").iterdir())


def test_what_git_cannot_read_of_a_persons_settings_is_said(home, monkeypatch):
    home.commit_all()
    home.write("broken", "[user\n")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", str(home.checkout / "broken"))
    assert "bad config line 1 in file" in home.milestones().problem()


def test_no_hook_runs_and_nothing_is_signed(home, tmp_path):
    home.commit_all()
    traces = tmp_path / "traces"
    hooks = home.checkout / ".git" / "hooks"
    for name in ("pre-commit", "commit-msg", "post-commit", "post-index-change", "reference-transaction"):
        (hooks / name).write_text(f"#!/bin/sh\necho {name} >> {traces}\nexit 1\n")
        (hooks / name).chmod(0o755)
    git(home.checkout, "config", "commit.gpgSign", "true")
    git(home.checkout, "config", "gpg.program", "/bin/false")
    sha = made(home.milestones(), "Data ready", [home.artefact()])
    assert not traces.exists()
    assert "gpgsig" not in git(home.checkout, "cat-file", "commit", sha)


def test_an_index_lock_held_by_somebody_else_is_theirs(home):
    home.dirty()
    lock = home.checkout / ".git" / "index.lock"
    lock.write_bytes(b"theirs")
    made(home.milestones(), "Data ready")
    assert lock.read_bytes() == b"theirs"


def test_a_branch_locked_by_somebody_else_is_a_reason(home):
    home.commit_all()
    lock = home.write(".git/refs/heads/autopilot/default.lock", "")
    milestones = home.milestones()
    assert milestones.commit("Data ready", "", []) is None
    assert "lock" in milestones.reason
    assert milestones.commits() == []
    lock.unlink()
    made(milestones, "Data ready")
    assert milestones.reason == ""


def test_a_merge_in_progress_is_recorded_as_it_lies_there(home):
    home.write("code.py", "ours\n")
    home.commit_all()
    git(home.checkout, "checkout", "-qb", "other")
    home.write("code.py", "theirs\n")
    home.commit_all()
    git(home.checkout, "checkout", "-q", "main")
    home.write("code.py", "mine\n")
    home.commit_all()
    with pytest.raises(subprocess.CalledProcessError):
        git(home.checkout, "merge", "-q", "other")
    before = home.snapshot()
    made(home.milestones(), "Data ready")
    assert home.snapshot() == before
    assert "<<<<<<<" in home.tree()["code.py"]


def test_another_runs_branch_of_the_same_name_is_kept_under_another(home):
    home.commit_all()
    old = made(home.milestones(), "An older run")
    shutil.rmtree(home.state)
    new = made(home.milestones(), "A new run")
    shutil.rmtree(home.state)
    made(home.milestones(), "A newer run")
    branches = git(home.checkout, "branch", "--list", "autopilot/*", "--format=%(refname:short)").splitlines()
    assert len(branches) == 3
    assert sum(re.fullmatch(r"autopilot/default-\d{8}-\d{6}(-2)?", branch) is not None for branch in branches) == 2
    assert {old, new} < {git(home.checkout, "rev-parse", branch) for branch in branches}
    assert home.log() == ["A newer run", "The code"]


def test_a_persons_own_commit_on_the_branch_is_kept_and_the_story_goes_on(home):
    home.commit_all()
    first = made(home.milestones(), "Data ready")
    own = git(home.checkout, "commit-tree", f"{first}^{{tree}}", "-p", first, "-m", "A note")
    git(home.checkout, "update-ref", "refs/heads/autopilot/default", own)
    made(home.milestones(), "Model trained", [home.artefact()])
    assert home.log() == ["Model trained", "Data ready", "The code"]
    kept = git(home.checkout, "branch", "--list", "autopilot/default-*", "--format=%(objectname)")
    assert kept == own


def test_killed_between_the_record_and_the_branch(home):
    home.commit_all()
    first = made(home.milestones(), "Data ready")
    code = textwrap.dedent("""
        import os, sys
        from pathlib import Path
        from flows.runner.milestones import Milestones
        from flows.runner.private_index import PrivateIndex
        checkout, state, artefact = map(Path, sys.argv[1:])
        PrivateIndex.move_branch = lambda *_arguments, **_options: os._exit(9)
        Milestones(checkout, checkout, "default", state).commit("Model trained", "", [artefact])
    """)
    arguments = [home.checkout, home.state, home.artefact("1")]
    assert subprocess.run([sys.executable, "-c", code, *arguments], cwd=CHECKOUT, timeout=300).returncode == 9
    assert len(home.milestones().commits()) == 2
    second = made(home.milestones(), "Model trained", [home.artefact("1")])
    assert git(home.checkout, "rev-parse", f"{second}^") == first
    assert [commit.sha for commit in home.milestones().commits()] == [first, second]
    assert git(home.checkout, "branch", "--list", "autopilot/default-*") == ""


def test_a_branch_that_is_checked_out_is_not_moved(home):
    home.commit_all()
    made(home.milestones(), "Data ready")
    git(home.checkout, "checkout", "-q", "autopilot/default")
    milestones = home.milestones()
    assert milestones.commit("Model trained", "", []) is None
    assert "autopilot/default is checked out" in milestones.reason
    assert home.log() == ["Data ready", "The code"]


def test_big_absent_and_foreign_files_are_left_out_and_named(home, tmp_path):
    home.commit_all()
    big = home.artefact("x" * (FILE_LIMIT + 1), "reports/model.safetensors")
    (tmp_path / "elsewhere.txt").write_text("x")
    os.mkfifo(home.checkout / "reports" / "log")
    (home.checkout / "reports" / "link").symlink_to("../.env")
    (home.checkout / "reports" / "zero").symlink_to("/dev/zero")
    home.write(".env", "hunter2")
    strange = [home.checkout / "reports" / name for name in ("log", "link", "zero", "default")]
    gone = home.checkout / "reports" / "gone.png"
    files = [big, home.artefact(), gone, tmp_path / "elsewhere.txt", *strange]
    sha = made(home.milestones(), "Model trained", files)
    assert set(home.tree()) == {".gitignore", "runs/default/reports/default/facts.json"}
    body = git(home.checkout, "log", "-1", "--format=%b", sha)
    assert "reports/model.safetensors (5 MB)" in body
    assert "gone.png (No such file or directory)" in body
    assert "reports/log (not a plain file)" in body and "reports/default (not a plain file)" in body
    assert ".env (not a plain file)" in body and "/reports/zero (not in the workspace)" in body
    assert "elsewhere.txt (not in the workspace)" in body


@pytest.mark.parametrize(
    ("text", "kept"),
    [
        ("https://example.org/a:b@c, mailto:ada@example.org, ssh://git@example.org/x, 3:4@5", True),
        ("--set data.mirror=https://ada:hunter2@example.org/text", False),
        ("package @ git+https://hunter2@example.org/package", False),
        ('{"proxy": "socks5://:hunter2@localhost:1080"}', False),
    ],
)
def test_an_artefact_with_a_password_in_a_url_is_left_out(home, text, kept):
    home.commit_all()
    sha = made(home.milestones(), "Data ready", [home.artefact(text)])
    assert ("runs/default/reports/default/facts.json" in home.tree()) == kept
    said = "reports/default/facts.json (has a URL with a password)" in git(
        home.checkout, "log", "-1", "--format=%b", sha
    )
    assert said == (not kept)


def test_a_big_or_unreadable_change_in_the_work_tree_is_left_out_and_named(home):
    for name in ("corpus.txt", "closed.py"):
        home.write(name, "x")
    home.commit_all()
    home.write("corpus.txt", "x" * (FILE_LIMIT + 1))
    home.write("closed.py", "y").chmod(0)
    sha = made(home.milestones(), "Data ready")
    body = git(home.checkout, "log", "-1", "--format=%b", sha)
    assert home.tree()["corpus.txt"] == "x"
    assert "corpus.txt (5 MB)" in body
    if os.geteuid():  # root reads everything
        assert home.tree()["closed.py"] == "x" and "closed.py (not readable)" in body


def test_artefacts_are_stored_byte_for_byte(home):
    home.write(".gitattributes", "* text=auto eol=crlf\n")
    home.commit_all()
    artefact = home.artefact()
    artefact.write_bytes(b"a\r\nb\n\x00")
    script = home.artefact("#!/bin/sh\n", "reports/run.sh")
    script.chmod(0o755)
    sha = made(home.milestones(), "Data ready", [artefact, script])
    place = f"{sha}:runs/default/reports/default/facts.json"
    shown = subprocess.run(["git", "cat-file", "blob", place], cwd=home.checkout, capture_output=True, check=True)
    assert shown.stdout == b"a\r\nb\n\x00"
    assert git(home.checkout, "ls-tree", sha, "runs/default/reports/run.sh").startswith("100755")


def test_a_workspace_inside_the_checkout_is_no_code(home):
    home.commit_all()
    workspace = home.checkout / "work"
    home.write("work/checkpoints/model.bin", "big one")
    facts = home.write("work/facts.json", "{}")
    made(Milestones(home.checkout, workspace, "default", workspace / "state"), "Data ready", [facts])
    assert set(home.tree()) == {".gitignore", "runs/default/facts.json"}


def test_a_workspace_elsewhere(home, tmp_path):
    home.commit_all()
    (tmp_path / "space").mkdir()
    (tmp_path / "space" / "facts.json").write_text("{}")
    milestones = Milestones(home.checkout, tmp_path / "space", "default", tmp_path / "space" / "state")
    made(milestones, "Data ready", [tmp_path / "space" / "facts.json"])
    assert set(home.tree()) == {".gitignore", "runs/default/facts.json"}
    assert [path.name for path in (tmp_path / "space" / "state").iterdir()] == ["milestones.json"]


def test_called_from_a_hook_of_another_repository(home, tmp_path, monkeypatch):
    home.commit_all()
    other = tmp_path / "other"
    git(tmp_path, "init", "-q", str(other))
    monkeypatch.setenv("GIT_DIR", str(other / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other / ".git" / "index"))
    monkeypatch.setenv("GIT_WORK_TREE", str(other))
    sha = home.milestones().commit("Data ready", "", [])
    for name in ("GIT_DIR", "GIT_INDEX_FILE", "GIT_WORK_TREE"):
        monkeypatch.delenv(name)
    assert sha
    assert home.log() == ["Data ready", "The code"]
    assert not (other / ".git" / "index").exists()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("plain", "is not in a git repository"),
        ("checkout/inner", "is not the top of its git repository"),
        ("bare", "is not the top of its git repository"),
    ],
)
def test_places_without_milestones_give_a_reason(home, tmp_path, place, said):
    home.commit_all()
    git(tmp_path, "init", "-q", "--bare", str(tmp_path / "bare"))
    folder = tmp_path / place
    folder.mkdir(exist_ok=True)
    milestones = Milestones(folder, folder, "default", tmp_path / "state")
    problem = milestones.problem()
    assert problem.startswith("no milestones are committed: ") and said in problem
    assert milestones.commit("Data ready", "", []) is None
    assert said in milestones.reason
    assert "\n" not in milestones.reason


@pytest.mark.parametrize("run", ["a..b", "x.lock", "end.", "at@{1}", ".hidden", "my run", "a~1", ".."])
def test_a_run_whose_name_git_allows_for_no_branch_has_another(home, run):
    home.commit_all()
    milestones = home.milestones(run)
    before = home.snapshot()
    problem = milestones.problem()
    assert home.snapshot() == before and not list(home.state.iterdir())
    assert re.fullmatch(r"autopilot/[a-z0-9-]*-[0-9a-f]{6}", milestones.branch)
    reason = f'git allows no branch called "autopilot/{run}"'
    assert problem == f'milestones are on the branch "{milestones.branch}": {reason}'
    made(milestones, "Data ready")
    made(home.milestones(run), "Model trained")
    assert home.log(milestones.branch) == ["Model trained", "Data ready", "The code"]


def test_runs_whose_names_differ_only_in_what_git_forbids_have_branches_of_their_own(home):
    home.commit_all()
    for run in ("a..b", "a...b", "a-b"):
        made(Milestones(home.checkout, home.checkout, run, home.checkout / "state" / run), f"of {run}")
    branches = git(home.checkout, "branch", "--list", "autopilot/*", "--format=%(subject)").splitlines()
    assert sorted(branches) == ["of a-b", "of a...b", "of a..b"]


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize(
    ("theirs", "branch"),
    [("autopilot", "nanogpt-autopilot/default"), ("autopilot/default/old", r"autopilot/default-[0-9a-f]{6}")],
)
def test_a_branch_in_the_way_is_gone_around(home, theirs, branch, packed):
    head = home.commit_all()
    git(home.checkout, "branch", theirs)
    if packed:
        git(home.checkout, "pack-refs", "--all")
    milestones = home.milestones()
    problem = milestones.problem()
    assert re.fullmatch(branch, milestones.branch)
    assert problem.endswith(f': the branch "{theirs}" is in the way of "autopilot/default"')
    made(milestones, "Data ready")
    made(home.milestones(), "Model trained")
    assert home.log(milestones.branch) == ["Model trained", "Data ready", "The code"]
    assert git(home.checkout, "rev-parse", theirs) == head


def test_where_every_name_is_taken_there_is_a_reason(home):
    home.commit_all()
    git(home.checkout, "branch", "autopilot")
    git(home.checkout, "branch", "nanogpt-autopilot")
    milestones = home.milestones()
    assert milestones.commit("Data ready", "", []) is None
    assert milestones.reason == 'the branch "autopilot" is in the way of "autopilot/default"'
    assert milestones.problem() == f"no milestones are committed: {milestones.reason}"


@pytest.mark.parametrize("run", ["default", "-", "-x", "a-b_c.d", "x.locks"])
def test_without_a_problem_the_branch_has_the_runs_name(home, run):
    home.commit_all()
    milestones = home.milestones(run)
    assert milestones.problem() == "" and milestones.branch == f"autopilot/{run}"
    made(milestones, "Data ready")
    assert milestones.problem() == ""


def test_a_branch_that_is_checked_out_is_a_problem(home):
    home.commit_all()
    milestones = home.milestones()
    made(milestones, "Data ready")
    git(home.checkout, "checkout", "-q", "autopilot/default")
    assert "autopilot/default is checked out" in milestones.problem()


def test_a_machine_without_git(home, tmp_path):
    home.commit_all()
    script = """
        import sys
        from pathlib import Path
        from flows.runner.milestones import Milestones
        milestones = Milestones(Path(sys.argv[1]), Path(sys.argv[1]), "default", Path(sys.argv[2]))
        print(milestones.commit("Data ready", "", []), milestones.reason)
        print(milestones.commit("Data ready", "", []), milestones.reason)
    """
    command = [sys.executable, "-c", textwrap.dedent(script), str(home.checkout), str(tmp_path / "state")]
    environment = {**os.environ, "PATH": str(tmp_path), "PYTHONPATH": str(CHECKOUT)}
    result = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines() == ["None git is not installed"] * 2


def test_git_that_vanishes_during_a_run(home, monkeypatch):
    home.commit_all()
    milestones = home.milestones()
    made(milestones, "Data ready")
    monkeypatch.setenv("PATH", "/nonexistent")
    assert milestones.commit("Model trained", "", []) is None
    assert milestones.reason == "git is not installed"


def test_a_spoilt_record_loses_no_commit(home):
    home.commit_all()
    first = made(home.milestones(), "Data ready")
    (home.state / "milestones.json").write_text('{"commits": [')
    made(home.milestones(), "Model trained")
    kept = git(home.checkout, "branch", "--list", "autopilot/default-*", "--format=%(objectname)")
    assert kept == first
