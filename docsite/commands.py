"""Every command that the documentation shows, and whether a test runs it: `make docs-commands`.

A comment before a block of shell lines says so. GitHub and the site do not show it:

- `<!-- run -->`: a test runs the lines one after the other in one folder, as a reader would;
- `<!-- run each -->`: a test runs each line on its own, because the lines are alternatives;
- `<!-- run by FILE -->`: this test or script runs what the block says;
- `<!-- run each, but not WORD, WORD: why -->`: the same without the lines that hold one of the words;
- `<!-- not run: why -->`: nobody does.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]

_BLOCK = re.compile(
    r"^(?P<indent> *)(?:<!-- (?P<marker>[^\n]*) -->\n(?P=indent))?```(?P<language>\w*)\n(?P<text>.*?)^(?P=indent)```$",
    re.DOTALL | re.MULTILINE,
)
_MARKER = re.compile(
    r"(?P<how>run each|run by (?P<file>[^\s,]+)|run)(?:, but not (?P<words>.+?): (?P<why>.+))?|not run: (?P<reason>.+)"
)
_A_COMMAND = re.compile(r"\s*(?:fctl|pip|make|docker|python\d?|sudo|ssh)[ -]")


@dataclass(frozen=True, kw_only=True)
class Command:
    """A line of a shell block.

    Attributes:
        page: The file, relative to the repository's root.
        block: The number of its block within the page, from 0.
        line: The command, continued lines joined, without a comment behind it.
        run: Whether something runs it.
        alone: Whether it runs in a folder of its own, instead of after the lines above it.
        note: Who runs it, or why nobody does; empty where the test of all pages does.
    """

    page: str
    block: int
    line: str
    run: bool
    alone: bool = False
    note: str = ""


class UnmarkedError(ValueError):
    """A block of which nobody said whether it is run."""


def pages(root: Path = ROOT) -> list[Path]:
    """The pages that show commands: the README, that for contributors, and docs/."""
    return [root / "README.md", root / "CONTRIBUTING.md", *sorted((root / "docs").glob("*.md"))]


def commands(path: Path, root: Path = ROOT) -> Iterator[Command]:
    """The commands of a page, in order.

    Args:
        path: The page, a Markdown file.
        root: The folder that files in markers are relative to.

    Yields:
        Each line of its shell blocks that is neither empty nor a comment.

    Raises:
        UnmarkedError: A block has no marker, or one that says nothing; or commands stand in a block without a language.
    """
    page = path.relative_to(root).as_posix()
    for number, block in enumerate(_BLOCK.finditer(path.read_text(encoding="utf-8"))):
        text = block["text"].replace("\\\n", " ")
        lines = [stripped for line in text.splitlines() if (stripped := _plain(line))]
        if block["language"] == "sh":
            for line in lines:
                yield _marked(page, number, line, block["marker"], root)
        elif not block["language"] and any(_A_COMMAND.match(line) for line in lines):
            raise UnmarkedError(f"{page}: a block of commands begins with ```sh: {lines[0]}")


def _plain(line: str) -> str:
    """A line without the comment behind it and with single spaces."""
    return " ".join(re.sub(r"(^|\s)#.*", "", line).split())


def _marked(page: str, block: int, line: str, marker: str | None, root: Path) -> Command:
    found = _MARKER.fullmatch(marker or "")
    if found is None:
        raise UnmarkedError(
            f"{page}: neither `<!-- run -->` nor `<!-- not run: why -->` stands before the block of: {line}"
        )
    if found["reason"]:
        return Command(page=page, block=block, line=line, run=False, note=found["reason"])
    if found["file"] and not (root / found["file"]).is_file():
        raise UnmarkedError(f"{page}: {found['file']}, which is to run a block, is not there")
    if any(word in line for word in (found["words"] or "").split(", ") if word):
        return Command(page=page, block=block, line=line, run=False, note=found["why"])
    alone = found["how"] == "run each"
    return Command(page=page, block=block, line=line, run=True, alone=alone, note=found["file"] or "")


def table(root: Path = ROOT) -> str:
    """All commands as Markdown: how many are run, then a table for each page."""
    found = {path: list(commands(path, root)) for path in pages(root)}
    everything = [command for listed in found.values() for command in listed]
    run = sum(command.run for command in everything)
    lines = [
        "# Commands on these pages",
        "",
        f"The documentation shows {len(everything)} commands. Tests run {run} of them on small inputs of the same "
        "names. The others are not run, for the reason beside them; those of fctl are parsed with all their options.",
    ]
    for listed in found.values():
        if listed:
            lines += ["", f"## {listed[0].page}", "", "| command | run |", "|---|---|"]
            lines += [f"| `{_cell(command.line)}` | {_verdict(command)} |" for command in listed]
    return "\n".join(lines) + "\n"


def _cell(line: str) -> str:
    return line.replace("|", "\\|").replace("`", "'")


def _verdict(command: Command) -> str:
    if not command.run:
        return f"no: {command.note}"
    return f"yes, by `{command.note}`" if command.note else "yes"


def _main() -> None:
    try:
        print(table(), end="")
    except UnmarkedError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    _main()
