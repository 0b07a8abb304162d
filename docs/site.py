"""The documents and the API reference as a site: python docs/site.py [FOLDER], by default site/ in the checkout.

README.md is its first page, docs/ the others, and every module of the library has its place in the reference, made from
docstrings. Whatever the generator warns of (a link that leads nowhere, a name that is not there) fails the build.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parent.parent
DOCS = CHECKOUT / "docs"
PLACE_OF_REFERENCE = "  # the API reference: docs/site.py writes it here\n"
TOP = "nanogpt"  # the page of the modules that stand in no folder


def main(arguments: list[str]) -> int:
    """Build into the folder that is named; the generator's exit code."""
    out = Path(arguments[0]) if arguments else CHECKOUT / "site"
    with tempfile.TemporaryDirectory(prefix="nanogpt-site-") as folder:
        work = Path(folder)
        write_pages(work / "pages")
        rooms = write_reference(work / "pages" / "reference")
        (work / "zensical.toml").write_text(configuration(rooms), encoding="utf-8")
        built = subprocess.run([sys.executable, "-m", "zensical", "build", "--strict", "--clean"], cwd=work)
        if built.returncode == 0:
            shutil.rmtree(out, ignore_errors=True)
            shutil.copytree(work / "site", out)
            print(f"{out / 'index.html'}")
        return built.returncode


def write_pages(pages: Path) -> None:
    """docs/ as it is, with README.md as the first page, and docs/README.md as the contents."""
    shutil.copytree(DOCS, pages, ignore=shutil.ignore_patterns("*.py", "*.toml", "*.json", "__pycache__"))
    contents = (pages / "README.md").read_text(encoding="utf-8").replace("](../README.md)", "](index.md)")
    (pages / "README.md").unlink()
    (pages / "contents.md").write_text(contents, encoding="utf-8")
    readme = (CHECKOUT / "README.md").read_text(encoding="utf-8")
    readme = readme.replace("](docs/README.md", "](contents.md").replace("](docs/", "](").replace('src="docs/', 'src="')
    readme = re.sub(r"\[([^\]]+)\]\((?!http|#)([A-Za-z_/]+(?:\.(?!md|png)[a-z]+)?|[A-Z]+\.md)\)", r"\1", readme)
    (pages / "index.md").write_text(readme, encoding="utf-8")


def write_reference(folder: Path) -> dict[str, str]:
    """A page for each folder of the library; {page: its title}, in the order of their names."""
    folder.mkdir(parents=True)
    modules = public_modules()
    rooms = {}
    for room in sorted({room_of(module) for module in modules}):
        lines = [f"# `{room}`\n"]
        lines += [f"::: {module}\n" for module in modules if room_of(module) == room]
        (folder / f"{room}.md").write_text("\n".join(lines), encoding="utf-8")
        rooms[f"reference/{room}.md"] = room
    return rooms


def public_modules() -> list[str]:
    """Every module of the library that a person may import."""
    names = []
    for path in sorted((CHECKOUT / "nanogpt").rglob("*.py")):
        parts = list(path.relative_to(CHECKOUT).with_suffix("").parts)
        names.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return sorted(names)


def room_of(module: str) -> str:
    """The folder that a module stands in, as a dotted name; of a folder, itself."""
    path = CHECKOUT / module.replace(".", "/")
    return module if path.is_dir() else module.rpartition(".")[0] or TOP


def configuration(rooms: dict[str, str]) -> str:
    """zensical.toml with the reference in its navigation."""
    text = (DOCS / "zensical.toml").read_text(encoding="utf-8")
    pages = ", ".join(f'{{ "{title}" = "{page}" }}' for page, title in rooms.items())
    assert PLACE_OF_REFERENCE in text
    text = text.replace(PLACE_OF_REFERENCE, f'  {{ "API reference" = [{pages}] }},\n')
    return text.replace("CHECKOUT", str(CHECKOUT))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
