"""Git commits of a run, on the branch autopilot/<run>, that never touch the person's own work.

They are built with an index of their own, so HEAD, the index and the work tree stay as they are, byte for byte. The
first stands on HEAD and holds the work tree as it was, uncommitted changes too: each result stands on the code that
made it. A later session of the run records the work tree again. Git is only plumbing here: no hook runs, nothing is
signed, nothing goes over a network.
"""

import contextlib
import threading
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

from flows.runner.private_index import PrivateIndex, Refused
from nanogpt.durable import read_json, write_json

FILE_LIMIT = 5 << 20  # bytes; models and data sets do not belong into somebody's repository
RECORD = "milestones.json"


class Milestones:
    """The milestones of one run. `commit` may be called from several threads."""

    def __init__(self, checkout: Path, workspace: Path, run: str, state_folder: Path):
        self.checkout = Path(checkout).resolve()
        self.workspace = Path(workspace).resolve()
        self.run = run
        self.state_folder = Path(state_folder).resolve()
        self.reason: str | None = None  # why the last `commit` made none
        self._code_recorded = False
        self._lock = threading.Lock()

    @property
    def branch(self) -> str:
        return f"autopilot/{self.run}"

    def commit(self, title: str, body: str, files: Iterable[Path]) -> str | None:
        """Commit `files` of the workspace as `runs/<run>/<path>`; the commit's sha.

        None, with `reason` saying why, where git or a repository is missing or locked. Never raises for those. What
        is missing, outside the workspace or bigger than `FILE_LIMIT` is left out, and the message says so.
        """
        with self._lock:
            self.reason = None
            try:
                import git
            except ImportError:
                self.reason = "git is not installed"
                return None
            try:
                return self._commit(" ".join(title.split()), body.strip(), list(files))
            except git.GitCommandNotFound:
                self.reason = "git is not installed"
            except git.GitCommandError as error:
                words = error.stderr.strip().removeprefix("stderr:").strip(" \n'") or f"status {error.status}"
                self.reason = f"git could not make the commit: {' '.join(words.split())}"
            except (git.GitError, Refused, OSError, ValueError) as error:
                self.reason = " ".join(str(error).split()) or type(error).__name__
            return None

    def commits(self) -> list[dict]:
        """The milestones so far, oldest first: [{sha, title, time}]."""
        try:
            commits = read_json(self.state_folder / RECORD)["commits"]
            return [{key: str(commit[key]) for key in ("sha", "title", "time")} for commit in commits]
        except (OSError, ValueError, KeyError, TypeError):
            return []

    def _commit(self, title: str, body: str, files: list[Path]) -> str:
        with PrivateIndex(self.checkout, self.state_folder / "milestones.index", FILE_LIMIT) as index:
            ref = index.branch_ref(self.branch)
            tip = index.commit_at(ref)
            commits = self._commits_up_to(tip)
            if commits and not index.commit_at(commits[-1]["sha"]):
                commits = []  # the person deleted the branch and git has forgotten it
            parent = commits[-1]["sha"] if commits else None
            notes = self._record_code(index, parent)
            left_out = self._add(index, files)
            tree = index.write_tree()
            if parent and tree == index.tree_of(parent) and title == commits[-1]["title"]:
                return parent if tip == parent else self._publish(index, ref, tip, parent, commits)
            if left_out:
                notes.append("Left out: " + "; ".join(left_out))
            message = "\n\n".join([title, *filter(None, [body]), *notes]) + "\n"
            sha = index.commit_tree(tree, parent or index.commit_at("HEAD"), message)
            time = datetime.now().astimezone().isoformat(sep=" ", timespec="seconds")
            self._publish(index, ref, tip, sha, [*commits, {"sha": sha, "title": title, "time": time}])
        self._code_recorded = True
        return sha

    def _commits_up_to(self, tip: str | None) -> list[dict]:
        """The recorded commits; those after the branch's tip never reached it, or were taken back."""
        commits = self.commits()
        known = [commit["sha"] for commit in commits]
        return commits[: known.index(tip) + 1] if tip in known else commits

    def _record_code(self, index: PrivateIndex, parent: str | None) -> list[str]:
        """Fill the index with code and with the run's files so far; what the message should say about it."""
        if parent and self._code_recorded:
            index.read_tree(parent)
            return []
        inside = [folder for folder in (self.workspace, self.state_folder) if folder != self.checkout]
        skipped = index.add_work_tree(outside_of=inside)
        head = index.commit_at("HEAD")
        changed = index.changed_since(head)
        if parent:
            index.add_from(parent, f"runs/{self.run}")
        code = f"Code: commit {head[:10]}" if head else "Code: no commit yet"
        notes = [f"{code}, with uncommitted changes to {_some(changed)}." if changed else f"{code}."]
        if skipped:
            notes.append(
                f"Not in this snapshot of the work tree (too big, too many or not readable): {_some(skipped)}."
            )
        return notes

    def _add(self, index: PrivateIndex, files: list[Path]) -> list[str]:
        """Put files into the index; a line for each that is left out."""
        places, left_out = {}, []
        for file in files:
            path = self.workspace / file
            try:
                place = path.resolve().relative_to(self.workspace).as_posix()
                size = path.stat().st_size
            except ValueError:
                left_out.append(f"{path} (not in the workspace)")
            except OSError:
                left_out.append(f"{file} (not there)")
            else:
                if not path.is_file() or "\n" in place:
                    left_out.append(f"{place} (not a plain file)")
                elif size > FILE_LIMIT:
                    left_out.append(f"{place} ({size / 1e6:,.0f} MB)")
                else:
                    places[f"runs/{self.run}/{place}"] = path.resolve()
        index.add_files(places)
        return left_out

    def _publish(self, index: PrivateIndex, ref: str, tip: str | None, sha: str, commits: list[dict]) -> str:
        """Point the branch at `sha`. The record comes first: a branch whose tip it lacks counts as another run's."""
        before = self.commits()
        write_json(self.state_folder / RECORD, {"branch": self.branch, "commits": commits})
        stranger = tip if tip and tip not in {commit["sha"] for commit in commits} else None
        try:
            index.move_branch(ref, sha, tip, keep_old=stranger is not None)
        except BaseException:
            with contextlib.suppress(OSError):
                write_json(self.state_folder / RECORD, {"branch": self.branch, "commits": before})
            raise
        return sha


def _some(paths: list[str]) -> str:
    return ", ".join(paths[:5]) + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
