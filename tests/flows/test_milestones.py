"""Milestones tell a run's story in git and leave everything else in the repository as it was."""

import os
import re
import shutil
import stat
import subprocess
import sys
import textwrap
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


def test_the_first_milestone_holds_the_work_tree_as_it_was(home):
    home.dirty()
    made(home.milestones(), "Data ready", [home.artefact("facts")])
    tree = home.tree()
    assert tree["runs/default/reports/default/facts.json"] == "facts"
    code = {name.removeprefix("code/"): text for name, text in tree.items() if name.startswith("code/")}
    assert sorted(code) == sorted(
        ["staged.py", "unstaged.py", "both.py", "moved.py", "mode.py", "new staged.py", "untracked ü.py",
         "intended.py", "link.py", "folder.py/inside.py", "same.py"]
    )  # fmt: skip
    assert code["both.py"] == "unstaged"
    assert code["link.py"] == "same.py"
    assert git(home.checkout, "ls-tree", "autopilot/default", "code/mode.py").startswith("100755")
    body = git(home.checkout, "log", "-1", "--format=%b", "autopilot/default")
    assert re.search(r"Code: commit [0-9a-f]{10}, with uncommitted changes to .* and \d+ more\.", body)
    assert "facts.json" not in body


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
    assert [(commit["sha"], commit["title"]) for commit in milestones.commits()] == [
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
    assert set(home.tree()) == {".gitignore", "code.py"}


def test_a_linked_worktree(home, tmp_path):
    home.commit_all()
    linked = tmp_path / "linked"
    git(home.checkout, "worktree", "add", "-q", "-b", "side", str(linked))
    (linked / "code.py").write_text("in the linked tree")
    git(linked, "add", "-A")
    (linked / "other.py").write_text("untracked")
    index = home.checkout / ".git" / "worktrees" / "linked" / "index"
    before, index_before = home.snapshot(), index.read_bytes()
    made(Milestones(linked, linked, "default", linked / "state" / "default"), "Data ready")
    assert home.snapshot() == before
    assert index.read_bytes() == index_before
    assert {"code.py", "other.py"} <= set(home.tree())
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
    assert milestones.reason is None


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


def test_killed_between_the_record_and_the_branch(home, monkeypatch):
    home.commit_all()
    first = made(home.milestones(), "Data ready")

    def killed(*_arguments, **_options):
        os._exit(9)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(private_index.PrivateIndex, "move_branch", killed)
        home.milestones().commit("Model trained", "", [home.artefact("1")])
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 9
    assert len(home.milestones().commits()) == 2
    second = made(home.milestones(), "Model trained", [home.artefact("1")])
    assert git(home.checkout, "rev-parse", f"{second}^") == first
    assert [commit["sha"] for commit in home.milestones().commits()] == [first, second]
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
    files = [big, home.artefact(), home.checkout / "reports" / "gone.png", tmp_path / "elsewhere.txt"]
    sha = made(home.milestones(), "Model trained", files)
    assert set(home.tree()) == {".gitignore", "runs/default/reports/default/facts.json"}
    body = git(home.checkout, "log", "-1", "--format=%b", sha)
    assert "reports/model.safetensors (5 MB)" in body
    assert "gone.png (not there)" in body
    assert "elsewhere.txt (not in the workspace)" in body


def test_a_big_or_unreadable_file_in_the_work_tree_is_left_out_and_named(home, monkeypatch):
    home.commit_all()
    home.write("corpus.txt", "x" * (FILE_LIMIT + 1))
    for number in range(4):
        home.write(f"env/{number}.py", "x")
    git(home.checkout, "init", "-q", "other repository")
    home.write("other repository/code.py", "x")
    monkeypatch.setattr(private_index, "SNAPSHOT_FILES", 4)
    sha = made(home.milestones(), "Data ready")
    assert set(home.tree()) == {".gitignore", "env/0.py", "env/1.py", "env/2.py"}
    body = git(home.checkout, "log", "-1", "--format=%b", sha)
    assert "(too big, too many or not readable): corpus.txt, env/3.py, other repository/." in body


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
    ("place", "run", "said"),
    [
        ("plain", "default", "is not in a git repository"),
        ("checkout/inner", "default", "is not the top of its git repository"),
        ("checkout", "bad..name", "cannot be the name of a branch"),
        ("bare", "default", "is not the top of its git repository"),
    ],
)
def test_places_without_milestones_give_a_reason(home, tmp_path, place, run, said):
    home.commit_all()
    git(tmp_path, "init", "-q", "--bare", str(tmp_path / "bare"))
    folder = tmp_path / place
    folder.mkdir(exist_ok=True)
    milestones = Milestones(folder, folder, run, tmp_path / "state")
    assert milestones.commit("Data ready", "", []) is None
    assert said in milestones.reason
    assert "\n" not in milestones.reason


def test_a_branch_in_the_way_is_a_reason(home):
    home.commit_all()
    git(home.checkout, "branch", "autopilot")
    milestones = home.milestones()
    assert milestones.commit("Data ready", "", []) is None
    assert "refs/heads/autopilot" in milestones.reason


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
