"""The pages of the site that `make docs` builds: docs/, README and its neighbours, and every file that they link to.

`python docs/.site/pages.py` copies them to build/pages, each at its path in the repository, so that links stay as they
are. A file that is no page is copied as one that shows its text.
"""

import posixpath
import re
import shutil
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGES = ROOT / "build/pages"
SETTINGS = Path(__file__).parent / "zensical.toml"

IMAGES = (".png", ".svg", ".webp")

FENCED = re.compile(r"^( *)(```+).*?^\1\2$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"(?<=\]\()(?![a-z]+:|#)([^)#\s]+)")
LIST = re.compile(r"( *)(?:[-*]|\d\.) ")


def copied(path: str) -> list[str]:
    """Write a file of the repository to the pages, and return the paths that it links to."""
    source, copy = ROOT / path, PAGES / in_site(path)
    copy.parent.mkdir(parents=True, exist_ok=True)
    if source.suffix in IMAGES:
        shutil.copyfile(source, copy)
        return []
    text = source.read_text()
    if source.suffix == ".md":
        text, links = page(path, text)
        copy.write_text(text)
        return links
    language = source.suffix.removeprefix(".") or "text"
    copy.write_text(f"---\nsearch:\n  exclude: true\n---\n\n# {path}\n\n~~~~~~{language}\n{text}\n~~~~~~\n")
    return []


def page(path: str, text: str) -> tuple[str, list[str]]:
    """Return a page with its links as the site has them, and the paths that it links to."""
    links: list[str] = []

    def link(match: re.Match[str]) -> str:
        goal = posixpath.normpath(posixpath.join(posixpath.dirname(path), match[1]))
        if (ROOT / goal / "README.md").is_file():
            goal += "/README.md"
        if not (ROOT / goal).is_file():
            sys.exit(f"{path}: {match[1]} is no file")
        links.append(goal)
        return posixpath.relpath(in_site(goal), posixpath.dirname(path) or ".")

    parts, end = [], 0
    for fenced in [*FENCED.finditer(text), None]:
        prose = text[end : fenced.start() if fenced else len(text)]
        parts.append(lists(LINK.sub(link, prose)))
        if fenced:
            parts.append(fenced[0])
            end = fenced.end()
    return "".join(parts), links


def in_site(path: str) -> str:
    """Return the path in the site of a file of the repository."""
    return path if path.endswith((".md", *IMAGES)) else f"{path}.md"


def lists(text: str) -> str:
    """Return prose whose lists have an empty line before them and indents of four, as the site's Markdown requires."""
    lines: list[str] = []
    for line in text.split("\n"):
        if found := LIST.match(line):
            if lines and lines[-1].strip() and not LIST.match(lines[-1]) and not lines[-1].startswith(" "):
                lines.append("")
            line = 2 * found[1] + line.lstrip()
        lines.append(line)
    return "\n".join(lines)


def listed(entries: list[dict[str, str | list[dict[str, str]]]]) -> list[str]:
    """Return the pages of the navigation."""
    pages = []
    for entry in entries:
        for value in entry.values():
            pages += [value] if isinstance(value, str) else listed(value)  # type: ignore[arg-type]
    return pages


def main() -> None:
    shutil.rmtree(PAGES, ignore_errors=True)
    waiting = listed(tomllib.loads(SETTINGS.read_text())["project"]["nav"])
    if missing := {f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")} - set(waiting):
        sys.exit(f"Not in the navigation of {SETTINGS.relative_to(ROOT)}: {', '.join(sorted(missing))}")
    done: set[str] = set()
    while waiting:
        if (path := waiting.pop()) not in done:
            done.add(path)
            waiting += copied(path)
    shutil.copy(SETTINGS, PAGES.parent)


if __name__ == "__main__":
    main()
