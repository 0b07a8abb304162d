"""Git commits of a run, on the branch autopilot/<run>, that never touch the person's own work.

They are built with an index of their own, so HEAD, the index and the work tree stay as they are, byte for byte. The
first stands on HEAD. A milestone holds the run's own artefacts and, of the work tree, only changes to files that the
last commit holds: a branch may be pushed, and what git does not track may be a key or a password. A later session of
the run records the work tree again. Git is only plumbing here: no hook runs, nothing is signed, nothing goes over a
network.
"""

import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TypeVar

from flows.runner.private_index import PrivateIndex, Refused, problem_of
from nanogpt.durable import digest, read_bytes, read_json, write_json
from nanogpt.printable import printable
from nanogpt.records import from_json, to_json

T = TypeVar("T")

FILE_LIMIT = 5 << 20  # bytes; models and data sets do not belong into somebody's repository
RECORD = "milestones.json"
PASSWORD_IN_URL = re.compile(rb"://[^\s/@:\"'<>]*:[^\s/@\"'<>]+@|https?://[^\s/@\"'<>]+@")


@dataclass(frozen=True)
class Milestone:
    """One commit of a run."""

    sha: str
    title: str
    time: str  # local time with its offset


class Milestones:
    """The milestones of one run. Its methods may be called from several threads."""

    def __init__(self, checkout: Path, workspace: Path, run: str, state_folder: Path):
        self.checkout = Path(checkout).resolve()
        self.workspace = Path(workspace).resolve()
        self.run = run
        self.state_folder = Path(state_folder).resolve()
        self.branch = f"autopilot/{run}"  # `problem` and `commit` choose another where git does not allow it
        self.reason = ""  # why the last `commit` made none
        self._code_recorded = False
        self._lock = threading.Lock()

    def problem(self) -> str:
        """One line on why no milestone can be made, or why they are on an unusual branch; otherwise an empty text.

        Changes nothing, so it can be asked before the first commit.
        """
        with self._lock:
            why, reason = _attempt(self._choose_branch)
        if reason:
            return f"no milestones are committed: {reason}"
        return f'milestones are on the branch "{self.branch}": {why}' if why else ""

    def commit(self, title: str, body: str, files: Iterable[Path]) -> str | None:
        """Commit `files` of the workspace as `runs/<run>/<path>`; the commit's sha.

        None, with `reason` saying why, where git or a repository is missing or locked. Never raises for those. What
        is missing, no plain file, outside the workspace, bigger than `FILE_LIMIT` or has a password in a URL is left
        out, and the message says so.
        """
        with self._lock:
            sha, self.reason = _attempt(lambda: self._commit(" ".join(title.split()), body.strip(), list(files)))
            return sha

    @property
    def is_elsewhere(self) -> bool:
        """Whether the last commit is on an unusual branch; `problem` says why."""
        return self.branch != f"autopilot/{self.run}"

    def commits(self) -> list[Milestone]:
        """The milestones so far, oldest first."""
        try:
            return from_json(list[Milestone], read_json(self.state_folder / RECORD)["commits"])
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def _index(self) -> PrivateIndex:
        return PrivateIndex(self.checkout, self.state_folder / "milestones.index", FILE_LIMIT)

    def _choose_branch(self) -> str:
        """Set `branch`; why it is not the usual one, or an empty text. Refused if no name is free or it is in use."""
        index = self._index()
        safe = f"{re.sub('[^A-Za-z0-9_]+', '-', self.run).strip('-')}-{digest(self.run)[:6]}"
        names = [f"{top}/{name}" for top in ("autopilot", "nanogpt-autopilot") for name in (self.run, safe)]
        obstacle = index.obstacle(names[0])
        free = next((name for name in names if not index.obstacle(name)), None) if obstacle else names[0]
        if free is None:
            raise Refused(obstacle)
        self.branch = free
        index.require_not_checked_out(free)
        return obstacle

    def _commit(self, title: str, body: str, files: list[Path]) -> str:
        self._choose_branch()
        with self._index() as index:
            ref = f"refs/heads/{self.branch}"
            tip = index.commit_at(ref)
            commits = self._commits_up_to(tip)
            if commits and commits[-1].sha != tip and not index.commit_at(commits[-1].sha):
                commits = []  # the person deleted the branch and git has forgotten it
            parent = commits[-1].sha if commits else None
            notes = self._record_code(index, parent)
            left_out = self._add(index, files)
            tree = index.write_tree()
            if parent and title == commits[-1].title and tree == index.tree_of(parent):
                return parent if tip == parent else self._publish(index, ref, tip, commits)
            if left_out:
                notes.append("Left out: " + "; ".join(left_out))
            message = printable("\n\n".join([title, *filter(None, [body]), *notes])) + "\n"
            sha = index.commit_tree(tree, parent or index.commit_at("HEAD"), message)
            time = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
            self._publish(index, ref, tip, [*commits, Milestone(sha, title, time)])
        self._code_recorded = True
        return sha

    def _commits_up_to(self, tip: str | None) -> list[Milestone]:
        """The recorded commits; those after the branch's tip never reached it, or were taken back."""
        commits = self.commits()
        known = [commit.sha for commit in commits]
        return commits[: known.index(tip) + 1] if tip in known else commits

    def _record_code(self, index: PrivateIndex, parent: str | None) -> list[str]:
        """Fill the index with code and with the run's files so far; what the message should say about it."""
        if parent and self._code_recorded:
            index.read_tree(parent)
            return []
        left_out = index.add_work_tree()
        head = index.commit_at("HEAD")
        changed = index.changed_since(head)
        if parent:
            index.add_from(parent, f"runs/{self.run}")
        code = f"Code: commit {head[:10]}" if head else "Code: no commit yet"
        notes = [f"{code}, with uncommitted changes to {_some(changed)}." if changed else f"{code}."]
        if left_out:
            notes.append(f"Not in this copy of the code: {_some(left_out)}.")
        return notes

    def _add(self, index: PrivateIndex, files: list[Path]) -> list[str]:
        """Put files into the index; a line for each that is left out."""
        left_out, taken = [], []
        for file in files:
            path = self.workspace / file
            try:
                place = Path(os.path.realpath(path)).relative_to(self.workspace).as_posix()
                if problem := problem_of(path, FILE_LIMIT):
                    left_out.append(f"{place} ({problem})")
                    continue
                content = read_bytes(path)
            except ValueError:
                left_out.append(f"{path} (not in the workspace)")
            except OSError as error:
                left_out.append(f"{file} ({error.strerror})")
            else:
                if PASSWORD_IN_URL.search(content):
                    left_out.append(f"{place} (has a URL with a password)")
                else:
                    taken.append((f"runs/{self.run}/{place}", content, os.access(path, os.X_OK)))
        index.add_files(taken)
        return left_out

    def _publish(self, index: PrivateIndex, ref: str, tip: str | None, commits: list[Milestone]) -> str:
        """Point the branch at the last of `commits`; its sha. The record comes first: a branch whose tip it lacks
        counts as another run's."""
        before, sha = self.commits(), commits[-1].sha
        self._write_record(commits)
        stranger = tip if tip and tip not in {commit.sha for commit in commits} else None
        try:
            index.move_branch(ref, sha, tip, keep_old=stranger is not None)
        except BaseException:
            with contextlib.suppress(OSError):
                self._write_record(before)
            raise
        return sha

    def _write_record(self, commits: list[Milestone]) -> None:
        record = {"branch": self.branch, "commits": [to_json(commit) for commit in commits]}
        write_json(self.state_folder / RECORD, record)


def _attempt(work: Callable[[], T]) -> tuple[T | None, str]:
    """What `work` with git returns, or None and in one line why it could not be done."""
    try:
        import git  # here only, where a milestone is made: 0.1 s, and it raises ImportError without the program
    except ImportError:
        return None, "git is not installed"
    try:
        return work(), ""
    except git.GitCommandNotFound:
        return None, "git is not installed"
    except git.GitCommandError as error:
        words = error.stderr.strip().removeprefix("stderr:").strip(" \n'") or f"status {error.status}"
        return None, f"git could not make the commit: {' '.join(words.split())}"
    except (git.GitError, Refused, OSError, ValueError) as error:
        return None, " ".join(str(error).split()) or type(error).__name__


def _some(paths: list[str]) -> str:
    return ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
