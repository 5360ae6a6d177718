"""Hooks of MkDocs: pages made by `docsite`, and links out of docs/ that stay right on the site and on GitHub alike."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from docsite.commands import ROOT, table
from docsite.reference import command_pages, python_page

_LINK = re.compile(r"(\]\()([^)\s#:]+)((?:#[^)\s]*)?\))")
_ITEM = re.compile(r"(?:[-*]|\d\.) ")
_ELSEWHERE = re.compile(r"<(?:script|link|img|iframe|source)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^>]*>")
_MARKER = re.compile(r"^ *<!-- (?:not )?run\b[^\n]* -->\n", re.MULTILINE)
_LANGUAGES = {
    ".py": "python",
    ".json": "json",
    ".sh": "sh",
    ".txt": "text",
    ".yaml": "yaml",
    ".toml": "toml",
    ".cpp": "cpp",
    ".service": "ini",
    ".timer": "ini",
}

# Pages whose source lies elsewhere in the repository, by where they are in the site.
PROJECT = {
    "project/readme.md": "README.md",
    "project/contributing.md": "CONTRIBUTING.md",
    "project/changelog.md": "CHANGELOG.md",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that are made, and the files outside docs/ that pages link to."""
    made = {f"reference/{name}.md": text for name, text in command_pages().items()}
    made |= {"reference/python.md": python_page(), "reference/commands.md": table()}
    made |= {place: (ROOT / source).read_text(encoding="utf-8") for place, source in PROJECT.items()}
    linked: dict[str, str] = {}
    for source in _sources(files).values():
        for target in _outside(source):
            linked.setdefault(_page_of(target), _shown(target))
    for place, text in (linked | made).items():
        files.append(File.generated(config, place, content=text))
    for path in sorted((ROOT / "docsite" / "assets").iterdir()):
        files.append(File.generated(config, f"assets/{path.name}", abs_src_path=str(path)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leave out the markers of commands, and lead links out of docs/ to the pages of those files."""
    markdown = indented(_MARKER.sub("", markdown))
    source = _sources(files).get(page.file.src_uri)
    if source is None:
        return markdown
    folder = posixpath.dirname(page.file.src_uri)

    def led(link: re.Match[str]) -> str:
        target = _resolved(source, link[2])
        place = _place(target)
        return link[0] if place is None else f"{link[1]}{posixpath.relpath(place, folder or '.')}{link[3]}"

    return _LINK.sub(led, markdown)


def indented(markdown: str) -> str:
    """Lists as Python-Markdown reads them: 4 spaces before what belongs to an item, not the width of its marker."""
    lines, width, fenced = [], 0, False
    for line in markdown.splitlines():
        fenced ^= line.startswith("```")
        if not fenced and (item := _ITEM.match(line)):
            width = len(item[0])
        elif line and not line.startswith(" "):
            width = 0
        lines.append(" " * (4 - width) + line if width and line.startswith(" " * width) else line)
    return "\n".join(lines) + "\n"


def on_post_page(output: str, page: Page, config: MkDocsConfig) -> str:
    """Refuse a page that loads anything from another host."""
    if found := _ELSEWHERE.search(output):
        raise PluginError(f"{page.file.src_uri} loads content from another host: {found[0]}")
    return output


def _sources(files: Files) -> dict[str, str]:
    """The Markdown that people write: paths in the repository, by places in the site."""
    written = {file.src_uri: f"docs/{file.src_uri}" for file in files.documentation_pages() if not file.generated_by}
    return written | PROJECT


def _resolved(source: str, link: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), link))


def _place(target: str) -> str | None:
    """Where a file of the repository is on the site, None where the repository has no such file."""
    if not (ROOT / target).exists():
        return None
    for place, source in PROJECT.items():
        if source == target:
            return place
    return target.removeprefix("docs/") if target.startswith("docs/") else _page_of(target)


def _page_of(target: str) -> str:
    return f"source/{target.removesuffix('.md')}.md"


def _outside(source: str) -> list[str]:
    """What a page links to in the repository, beside docs/ and the pages of the project."""
    links = _LINK.findall((ROOT / source).read_text(encoding="utf-8"))
    targets = {_resolved(source, link) for _, link, _ in links}
    known = set(PROJECT.values())
    return sorted(target for target in targets - known if not target.startswith("docs/") and (ROOT / target).exists())


def _shown(target: str) -> str:
    """A file as a page, a folder as the list of its files."""
    return f"---\nsearch:\n  exclude: true\n---\n{_text(ROOT / target, target)}"


def _text(path: Path, target: str) -> str:
    if path.is_dir():
        names = sorted(child.name + "/" * child.is_dir() for child in path.iterdir() if child.name != "__pycache__")
        return "\n".join(
            [f"# {target}/", "", "A folder of the repository:", "", *(f"- `{name}`" for name in names), ""]
        )
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".md":
        return text
    return f"# {target}\n\n````{_LANGUAGES.get(path.suffix, 'text')}\n{text}````\n"
