"""Draws docs/windows.svg, what the network sees of a scene: `python -m docsite.diagram`.

The scene is drawn once in the colours of a picture and once in those of the classes of the bundle `default`. Windows
are views of it, so that what each of them shows is right by construction.
"""

from __future__ import annotations

from docsite.commands import ROOT

PICTURE = {"land": "#cdb68b", "water": "#4f7f8c", "vegetation": "#6f8f52", "road": "#8b8f94", "building": "#e8e2d6"}
CLASSES = {"land": "#e9c46a", "water": "#2177d4", "vegetation": "#43a047", "road": "#484c58", "building": "#d64045"}
WINDOWS = {"patch": (1, "#111111"), "medium": (2, "#d81b60"), "large": (4, "#5e35b1")}
PATCH, MIDDLE, SIDE = 90, (215, 205), 400  # side of the patch, its middle and the scene's side, in units of the scene

SHAPES = (
    ("water", '<path d="M0 300 C70 270 110 330 150 400 H0 Z"/>'),
    ("vegetation", '<circle cx="60" cy="80" r="46"/><circle cx="116" cy="64" r="30"/><circle cx="330" cy="345" r="48"/>'
     '<circle cx="205" cy="237" r="13"/><circle cx="290" cy="120" r="15"/><circle cx="165" cy="330" r="17"/>'),
    ("road", '<path d="M170 0 h26 v400 h-26 Z M0 150 h400 v20 H0 Z M196 262 h204 v14 H196 Z"/>'),
    ("building", '<path d="M215 186 h44 v22 h-22 v26 h-22 Z M275 190 h34 v44 h-34 Z M325 190 h50 v24 h-50 Z '
     'M214 100 h40 v34 h-40 Z M322 92 h48 v40 h-48 Z M215 292 h36 v50 h-36 Z M30 190 h60 v42 h-60 Z M108 190 h46 v60 '
     'h-46 Z M215 30 h60 v40 h-60 Z M300 24 h62 v44 h-62 Z M215 360 h40 v30 h-40 Z"/>'),
)  # fmt: skip


def scene(name: str, colours: dict[str, str]) -> str:
    """The scene in some colours, to be shown by reference."""
    shapes = "".join(f'<g fill="{colours[kind]}">{shape}</g>' for kind, shape in SHAPES)
    land = f'<path fill="{colours["land"]}" d="M0 0h{SIDE}v{SIDE}H0Z"/>'
    return f'<symbol id="{name}" viewBox="0 0 {SIDE} {SIDE}">{land}{shapes}</symbol>'


def window(factor: int) -> tuple[float, float, int]:
    """Left, top and side of the window that is `factor` times as wide as the patch, in units of the scene."""
    side = factor * PATCH
    return MIDDLE[0] - side / 2, MIDDLE[1] - side / 2, side


def view(name: str, factor: int, x: int, y: int, side: int, colour: str) -> str:
    """A window of the scene, drawn as a square of `side`."""
    left, top, width = window(factor)
    whole = f'<use href="#{name}" width="{SIDE}" height="{SIDE}"/>'
    place = f'x="{x}" y="{y}" width="{side}" height="{side}"'
    return f'<svg {place} viewBox="{left} {top} {width} {width}">{whole}</svg>{frame(x, y, side, colour)}'


def frame(x: float, y: float, side: float, colour: str) -> str:
    """A square without a filling."""
    return (
        f'<rect x="{x:g}" y="{y:g}" width="{side:g}" height="{side:g}" fill="none" stroke="{colour}" stroke-width="3"/>'
    )


def text(x: int, y: int, *lines: str, bold: bool = False) -> str:
    """Lines of text, centred at x."""
    spans = "".join(f'<tspan x="{x}" dy="{17 if number else 0}">{line}</tspan>' for number, line in enumerate(lines))
    weight = 600 if bold else 400
    return f'<text x="{x}" y="{y}" text-anchor="middle" font-weight="{weight}">{spans}</text>'


def arrow(x: int, y: int, to_x: int, to_y: int) -> str:
    """An arrow from one point to another."""
    return f'<path d="M{x} {y} L{to_x} {to_y}" stroke="#555" stroke-width="2" marker-end="url(#head)"/>'


def diagram() -> str:
    """The whole picture."""
    scale = 0.9
    left, top = 20, 60
    squares = "".join(
        frame(left + x * scale, top + y * scale, side * scale, colour)
        for factor, colour in WINDOWS.values()
        for x, y, side in [window(factor)]
    )
    names = {"patch": "as it is", "medium": "2 times as wide", "large": "4 times as wide"}
    views = "".join(
        view("picture", factor, 460, 60 + 128 * row, 104, colour)
        + f'<text x="576" y="{107 + 128 * row}" font-weight="600" fill="{colour}">{name}</text>'
        + f'<text x="576" y="{126 + 128 * row}">{names[name]}</text>'
        + arrow(704, 112 + 128 * row, 744, 240)
        for row, (name, (factor, colour)) in enumerate(WINDOWS.items())
    )
    parts = (
        '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 1060 470" font-family="system-ui, sans-serif" '
        'font-size="15">',
        "<title>Three windows around one place go into the network, which gives the classes of the middle one</title>",
        '<defs><marker id="head" viewBox="0 0 10 10" refX="9" refY="5" markerWidth="7" markerHeight="7" orient="auto">'
        '<path d="M0 0 L10 5 L0 10 Z" fill="#555"/></marker>',
        scene("picture", PICTURE), scene("classes", CLASSES), "</defs>",
        '<rect width="1060" height="470" rx="8" fill="#ffffff"/>',
        text(200, 36, "a raster of any size", bold=True),
        f'<use href="#picture" x="{left}" y="{top}" width="{SIDE * scale:g}" height="{SIDE * scale:g}"/>', squares,
        text(200, 446, "windows are cut around every patch"),
        text(570, 36, "what the network gets", bold=True), views,
        text(570, 446, "all three have the same number of pixels"),
        '<rect x="750" y="190" width="120" height="100" rx="6" fill="#eef3f3" stroke="#00796b" stroke-width="2"/>',
        text(810, 236, "network", "(ONNX graphs)"), arrow(872, 240, 906, 240),
        text(975, 36, "what it gives", bold=True), view("classes", 1, 912, 178, 124, "#111111"),
        text(975, 326, "the class of every", "pixel of the patch"), "</svg>",
    )  # fmt: skip
    return "\n".join(parts) + "\n"


if __name__ == "__main__":
    (ROOT / "docs" / "windows.svg").write_text(diagram(), encoding="utf-8")
