"""An index of our own over somebody's repository: trees and commits without touching HEAD, index or work tree."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterable
from pathlib import Path

FALLBACK_NAME, FALLBACK_EMAIL = "nanogpt-autopilot", "autopilot@localhost"
TIMEOUT = 120  # seconds a git command may take: a hanging filter or disk must not hold up a night
SNAPSHOT_FILES, SNAPSHOT_BYTES = 2_000, 50 << 20  # of untracked files: a forgotten `env/` is no code

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
        self.git_folder = Path(repository.git_dir).resolve()
        self.file_limit = file_limit
        self._file = index_file
        self._checkout = checkout
        self._git = git.Git(checkout)
        self._program = git.Git.GIT_PYTHON_GIT_EXECUTABLE or "git"
        self._environment = {
            "GIT_DIR": str(self.git_folder),  # set, or a GIT_DIR of the caller's (a hook's) would win
            "GIT_WORK_TREE": str(checkout),
            "GIT_INDEX_FILE": str(index_file),
            "GIT_LITERAL_PATHSPECS": "1",
            "GIT_OPTIONAL_LOCKS": "0",
            "GIT_NO_LAZY_FETCH": "1",
            "GIT_TERMINAL_PROMPT": "0",
        }
        top = None if repository.bare else repository.working_tree_dir
        repository.close()
        if top is None or Path(top).resolve() != checkout:
            # The snapshot would take in what lies around the checkout: a whole home folder, say.
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

    def branch_ref(self, branch: str) -> str:
        """The full name of `branch`. Refused where it is checked out: moving it would change what HEAD means."""
        ref = f"refs/heads/{branch}"
        if self._answer("check-ref-format", ref) is None:
            raise Refused(f'"{branch}" cannot be the name of a branch')
        if f"branch {ref}" in self._run("worktree", "list", "--porcelain").splitlines():
            raise Refused(f"the branch {branch} is checked out; milestones go on once another one is")
        return ref

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

    def add_work_tree(self, outside_of: Iterable[Path]) -> list[str]:
        """The work tree as it is: changed, deleted and untracked files, but not ignored ones, nor untracked ones
        in certain folders. The paths left out: too big, too many, not readable, another repository."""
        index = self.git_folder / "index"
        if index.exists():
            shutil.copyfile(index, self._file)  # keeps what git knows of unchanged files, and sparse checkouts
        changed = sorted(set(self._paths("ls-files", "-z", "--modified", "--deleted")))
        chosen = [path for path in changed if self._fits(self._size(path))]
        left_out = [path for path in changed if path not in chosen]
        total = 0
        for number, path in enumerate(self._untracked(outside_of)):
            size = self._size(path)
            if number < SNAPSHOT_FILES and self._fits(size) and total + size <= SNAPSHOT_BYTES:
                chosen.append(path)
                total += size
            else:
                left_out.append(path)
        entries = b"".join(os.fsencode(path) + b"\0" for path in chosen)
        self._run("update-index", "--add", "--remove", "--replace", "-z", "--stdin", stdin=entries)
        return left_out

    def _untracked(self, outside_of: Iterable[Path]) -> list[str]:
        paths = sorted(self._paths("ls-files", "-z", "--others", "--exclude-standard"))
        return [path for path in paths if not any((self._checkout / path).is_relative_to(f) for f in outside_of)]

    def _fits(self, size: int | None) -> bool:
        return size is not None and size <= self.file_limit

    def _size(self, path: str) -> int | None:
        """Bytes to store for a path (none for links, submodules, deleted files), or None if it cannot be stored."""
        full = self._checkout / path
        if full.is_file() and not full.is_symlink():
            return full.stat().st_size if os.access(full, os.R_OK) else None
        return None if path.endswith("/") else 0  # git writes another repository's folder so

    def add_from(self, commit: str, folder: str) -> None:
        """What `commit` holds in `folder`."""
        entries = self._bytes("ls-tree", "-r", "-z", "--full-tree", commit, folder)
        self._run("update-index", "--add", "--replace", "-z", "--index-info", stdin=entries)

    def add_files(self, places: dict[str, Path]) -> None:
        """Files from anywhere, byte for byte, at {path in the tree: file}."""
        names = b"".join(os.fsencode(file) + b"\n" for file in places.values())
        blobs = self._run("hash-object", "-w", "--no-filters", "--stdin-paths", stdin=names).split()
        entries = b"".join(
            f"100{'755' if os.access(file, os.X_OK) else '644'} {blob}\t".encode() + os.fsencode(place) + b"\0"
            for (place, file), blob in zip(places.items(), blobs, strict=True)
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
        self._run("update-ref", "-m", "nanogpt-autopilot: milestone", "--stdin", stdin=text)

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
        if self._answer("config", "--get", "user.name") and self._answer("config", "--get", "user.email"):
            return {}
        fallback = {"NAME": FALLBACK_NAME, "EMAIL": FALLBACK_EMAIL}
        names = {f"GIT_{role}_{part}": fallback[part] for role in ("AUTHOR", "COMMITTER") for part in fallback}
        return {name: os.environ.get(name) or value for name, value in names.items()}

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
