"""An index of our own over somebody's repository: trees and commits without touching HEAD, index or work tree."""

import os
import shutil
import stat
import sys
import tempfile
import time
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

FALLBACK_NAME, FALLBACK_EMAIL = "nanogpt-autopilot", "autopilot@localhost"
NO_NAME = "".join(map(chr, range(33))) + ".,:;<>\"\\'"  # what git strips from both ends, and refuses alone
TIMEOUT = 120  # seconds a git command may take: a hanging filter or disk must not hold up a night

SETTINGS = {
    "core.hooksPath": os.devnull,
    "commit.gpgSign": "false",
    "i18n.commitEncoding": "utf-8",
    "core.safecrlf": "false",  # a warning about line ends must not be an error
    "core.fsmonitor": "false",
    "core.untrackedCache": "false",
    "core.splitIndex": "false",
    "core.fsync": "committed",  # a branch must not point at objects that a power cut took
    "core.fsyncMethod": "batch",
    "core.quotePath": "false",
}


class Refused(Exception):
    """No milestone can be made here, and why."""


class PrivateIndex:
    """A context manager around an index file that lives as long as one commit is built.

    `git` is imported here only, and only when a milestone is made. Raises git.GitError, OSError, Refused.
    """

    def __init__(self, checkout: Path, index_file: Path, file_limit: int):
        import git

        try:
            repository = git.Repo(checkout, search_parent_directories=True)
        except (git.InvalidGitRepositoryError, git.NoSuchPathError):
            raise Refused(f"{checkout} is not in a git repository") from None
        self.git_folder, shared = Path(repository.git_dir).resolve(), Path(repository.common_dir).resolve()
        self._file_limit = file_limit
        self._file = index_file
        self._checkout = checkout
        self._git = git.Git(checkout)
        self._program = git.Git.GIT_PYTHON_GIT_EXECUTABLE or "git"
        self._environment = {
            "GIT_DIR": str(self.git_folder),  # set, or a GIT_DIR of the caller's (a hook's) would win
            "GIT_WORK_TREE": str(checkout),
            "GIT_INDEX_FILE": str(index_file),
            "GIT_COMMON_DIR": str(shared),
            "GIT_OBJECT_DIRECTORY": str(shared / "objects"),  # elsewhere, the branch would point at nothing
            "GIT_ALTERNATE_OBJECT_DIRECTORIES": "",
            "GIT_NAMESPACE": "",
            "GIT_AUTHOR_DATE": "",  # now, whatever date the caller has set
            "GIT_COMMITTER_DATE": "",
            "GIT_LITERAL_PATHSPECS": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_TERMINAL_PROMPT": "0",
        }
        top = None if repository.bare else repository.working_tree_dir
        repository.close()
        if top is None or Path(top).resolve() != checkout:
            # The commits would take in what lies around the checkout: a whole home folder, say.
            raise Refused(f"{checkout} is not the top of its git repository")

    def __enter__(self) -> "PrivateIndex":
        self._remove()
        self._file.parent.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_error: object) -> None:
        self._remove()

    def _remove(self) -> None:
        for file in (self._file, self._file.with_name(self._file.name + ".lock")):
            file.unlink(missing_ok=True)

    # Reading

    def obstacle(self, branch: str) -> str:
        """Why there can be no branch of this name, or an empty text."""
        ref = f"refs/heads/{branch}"
        top = "/".join(ref.split("/")[:3])
        others = self._run("for-each-ref", "--format=%(refname)", top).splitlines()  # first: it says what git lacks
        if self._answer("check-ref-format", ref) is None:
            return f'git allows no branch called "{branch}"'
        for other in others:
            if ref.startswith(other + "/") or other.startswith(ref + "/"):
                return f'the branch "{other.removeprefix("refs/heads/")}" is in the way of "{branch}"'
        return ""

    def require_not_checked_out(self, branch: str) -> None:
        """Refused where `branch` is checked out: moving it would change what HEAD means."""
        if f"branch refs/heads/{branch}" in self._run("worktree", "list", "--porcelain").splitlines():
            raise Refused(f"the branch {branch} is checked out; milestones continue once another branch is")

    def commit_at(self, name: str) -> str | None:
        return self._answer("rev-parse", "--verify", "--quiet", f"{name}^{{commit}}")

    def tree_of(self, commit: str) -> str:
        return self._run("rev-parse", "--verify", f"{commit}^{{tree}}")

    def changed_since(self, commit: str | None) -> list[str]:
        """Paths in which the index differs from a commit, or from nothing at all."""
        before = self.tree_of(commit) if commit else self._run("mktree")
        return self._paths("diff-tree", "-r", "--no-renames", "--name-only", "-z", before, self.write_tree())

    # Filling the index

    def read_tree(self, commit: str) -> None:
        self._run("read-tree", commit)

    def add_work_tree(self) -> list[str]:
        """The last commit with the work tree's changes to its files; a line for each change that is left out.

        A file that no commit holds may be secret, so it stays out even when it is staged. So do changes that git was
        asked not to see: files that are ignored, assumed unchanged or outside a sparse checkout.
        """
        theirs = self.git_folder / "index"
        if theirs.exists():
            # Keeps what git knows of unchanged files, and the time after which it does not believe that: a file that
            # changed within a second of its staging, and not in size, would count as unchanged.
            shutil.copy2(theirs, self._file)
        tags = {line[2:]: line[0] for line in self._paths("ls-files", "-v", "-z")}
        self._run("read-tree", *(["-i", "--reset", "HEAD"] if self.commit_at("HEAD") else ["--empty"]))
        committed = set(self._paths("ls-files", "-z"))
        hidden = {path for path, tag in tags.items() if tag == "S" or tag.islower()}
        hidden.update(self._paths("ls-files", "-z", "--cached", "--ignored", "--exclude-standard"))
        left_out = [f"{path} (staged, but in no commit)" for path in sorted(tags.keys() - committed)]
        deleted, changed = [], []
        for path, mode in self._changes():
            if path in hidden:
                left_out.append(f"{path} (ignored)")
            elif mode == "000000":
                deleted.append(path)
            elif stat.S_ISREG(int(mode, 8)) and (problem := problem_of(self._checkout / path, self._file_limit)):
                left_out.append(f"{path} ({problem})")
            else:
                changed.append(path)
        self._update_index("--force-remove", paths=deleted)  # plain --remove refuses what lies behind a link
        self._update_index("--remove", paths=changed)
        return left_out

    def _changes(self) -> list[tuple[str, str]]:
        """Each path that differs between index and work tree, with its mode there; 000000 where it is deleted."""
        fields = self._paths("diff-files", "--raw", "-z", "--no-renames", "--ignore-submodules=dirty")
        return [(path, raw.split()[1]) for raw, path in zip(fields[::2], fields[1::2], strict=True)]

    def _update_index(self, option: str, paths: list[str]) -> None:
        entries = b"".join(os.fsencode(path) + b"\0" for path in paths)
        self._run("update-index", option, "-z", "--stdin", stdin=entries)

    def add_from(self, commit: str, folder: str) -> None:
        """What `commit` holds in `folder`."""
        entries = self._bytes("ls-tree", "-r", "-z", "--full-tree", commit, folder)
        self._run("update-index", "--add", "--replace", "-z", "--index-info", stdin=entries)

    def add_files(self, files: Iterable[tuple[str, bytes, bool]]) -> None:
        """Each file at its place in the tree, byte for byte: (place, content, whether it is executable)."""
        with tempfile.TemporaryDirectory() as folder:  # all in two commands: each takes 5 ms
            modes = []
            for number, (place, content, executable) in enumerate(files):
                Path(folder, str(number)).write_bytes(content)
                modes.append((place, "100755" if executable else "100644"))
            if not modes:
                return
            paths = "".join(f"{folder}/{number}\n" for number in range(len(modes)))
            blobs = self._run("hash-object", "-w", "--no-filters", "--stdin-paths", stdin=os.fsencode(paths))
        entries = b"".join(
            f"{mode} {blob}\t".encode() + os.fsencode(place) + b"\0"
            for (place, mode), blob in zip(modes, blobs.splitlines(), strict=True)
        )
        self._run("update-index", "--add", "--replace", "-z", "--index-info", stdin=entries)

    # Writing objects and the branch

    def write_tree(self) -> str:
        return self._run("write-tree")

    def commit_tree(self, tree: str, parent: str | None, message: str) -> str:
        parents = ["-p", parent] if parent else []
        text = message.replace("\0", "").encode("utf-8", "replace")
        return self._run("commit-tree", *parents, tree, stdin=text, **self._identity())

    def move_branch(self, ref: str, commit: str, expected: str | None, keep_old: bool) -> None:
        """Point `ref` at `commit`, in one transaction with a copy of what it pointed at, if that is to be kept."""
        orders = [f"update {ref} {commit} {expected}" if expected else f"create {ref} {commit}"]
        if keep_old:
            orders.append(f"create {self._free_name(ref)} {expected}")
        text = "".join(order + "\n" for order in orders).encode()
        self._remove_old_lock(ref)
        self._run("update-ref", "-m", "nanogpt-autopilot: milestone", "--stdin", stdin=text)

    def _remove_old_lock(self, ref: str) -> None:
        """Of a git that was killed, or a machine that lost power, in the moment in which it moved our branch."""
        lock = self._checkout / self._run("rev-parse", "--git-path", f"{ref}.lock")
        with suppress(OSError):
            if time.time() - lock.stat().st_mtime > 2 * TIMEOUT:
                lock.unlink()

    def _free_name(self, ref: str) -> str:
        """`<ref>-<date of its newest commit>`, numbered if there is such a branch."""
        date = self._run("for-each-ref", "--format=%(committerdate:format:%Y%m%d-%H%M%S)", ref)
        number, name = 1, f"{ref}-{date}"
        while self.commit_at(name):
            number += 1
            name = f"{ref}-{date}-{number}"
        return name

    def _identity(self) -> dict[str, str]:
        """The person's own name if git knows it, otherwise the autopilot's."""
        lines = (self._answer("config", "--get-regexp", r"^user\.(name|email)$") or "").splitlines()
        known = {key: value for key, _, value in (line.partition(" ") for line in lines)}  # git takes the last of each
        given = known.get("user.name", ""), known.get("user.email", "")
        is_known = bool(given[0].strip(NO_NAME) and given[1])
        parts = dict(zip(("NAME", "EMAIL"), given if is_known else (FALLBACK_NAME, FALLBACK_EMAIL), strict=True))
        identity = {f"GIT_{role}_{part}": value for role in ("AUTHOR", "COMMITTER") for part, value in parts.items()}
        if is_known:
            identity = {name: value for name, value in identity.items() if name in os.environ}
        return {name: value for name, value in identity.items() if not os.environ.get(name, "").strip(NO_NAME)}

    # Running git

    def _run(self, *arguments: str, stdin: bytes = b"", **environment: str) -> str:
        return os.fsdecode(self._bytes(*arguments, stdin=stdin, **environment)).strip("\n")

    def _paths(self, *arguments: str) -> list[str]:
        return [os.fsdecode(path) for path in self._bytes(*arguments).split(b"\0") if path]

    def _answer(self, *arguments: str) -> str | None:
        """What git says, or None if its status is not 0."""
        import git

        try:
            return self._run(*arguments)
        except git.GitCommandNotFound:
            raise
        except git.GitCommandError:
            return None

    def _bytes(self, *arguments: str, stdin: bytes = b"", **environment: str) -> bytes:
        settings = [part for key, value in SETTINGS.items() for part in ("-c", f"{key}={value}")]
        with tempfile.TemporaryFile() as file:
            file.write(stdin)
            file.seek(0)
            return self._git.execute(
                [self._program, *settings, *arguments],
                istream=file,
                env={**self._environment, **environment},
                stdout_as_string=False,
                strip_newline_in_stdout=False,
                kill_after_timeout=None if sys.platform == "win32" else TIMEOUT,
            )


def problem_of(file: Path, limit: int) -> str:
    """Why `file` cannot be stored: it is a link, FIFO or the like, it has more than `limit` bytes, it is not readable.

    An empty text for one that can be. Raises OSError where it is missing.
    """
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode):
        return "not a plain file"
    if status.st_size > limit:
        return f"{status.st_size / 1e6:,.0f} MB"
    return "" if os.access(file, os.R_OK) else "not readable"
