"""JSON documents that are damaged at random, in ways that damage or malice could."""

from __future__ import annotations

import copy
import json
import random

_VALUES: tuple[object, ...] = (
    None, True, False, 0, 1, -1, 2, 255, 256, 65536, 1 << 31, 1 << 63, 10**400, -(10**18), 0.5, 1e9, 1e308, -0.0,
    float("nan"), float("inf"), float("-inf"), "", "a", "N", "global", "../x", "/etc/passwd", "a\x00b", "\x1b[2J",
    "a\nb", "\u202e", "\ud800", "é" * 3000, "x" * 100_000, "default", "1.9", "1.x", "2.0", [], {}, [[]], [0] * 1000,
    {"a": {}}, ["N", 3, 16, 16], ["N", 0, -1, 1 << 40], {"": ""}, "uint8", "*", "**", "%s", "`bands`",
)  # fmt: skip

DESCRIPTION: dict[str, object] = {
    "name": "two fields", "images": "*.tif", "masks": "*.png",
    "classes": [
        {"name": "land", "values": [0, [255, 0, 0]], "counted": True},
        {"name": "water", "values": [1], "counted": False},
    ],
    "ignore": [255], "threshold": None,
}  # fmt: skip
"""The description of a data set."""

RECORD: dict[str, object] = {
    "schema": "1.0", "role": "segmenter", "precision": "fp32", "onnx_sha256": "0" * 64, "plan_sha256": "1" * 64,
    "options": {
        "flavour": "tensorrt", "batches": [1, 4], "compute_capability": None, "workspace": None, "optimisation": 3,
        "hardware_compatible": False, "version_compatible": False,
    },
    "machine": {
        "version": "10.3.0", "system": "Linux x86_64", "gpu": "Orin, 16 SMs", "compute_capability": 87, "driver": None,
    },
    "profiles": [1, 4], "seconds": 1.5, "layers": {"products": {"Half": ["a"]}, "attention": ["b+c"]},
}  # fmt: skip
"""The record of a plan."""


def damaged(document: object, luck: random.Random) -> bytes:
    """Damage a document.

    Args:
        document: The document; it is not changed.
        luck: What decides the damage.

    Returns:
        The bytes of a file, which may be no JSON any more.
    """
    changed = copy.deepcopy(document)
    for _ in range(luck.choice((1, 1, 1, 2, 5))):
        changed = _changed(changed, luck)
    content = json.dumps(changed).encode()
    if luck.random() < 0.2:
        content = _spoilt(content, luck)
    return content


def _places(value: object) -> list[tuple[object, object]]:
    """Every container of a document, with a key of it."""
    found: list[tuple[object, object]] = []
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in items:
        found += [(value, key), *_places(item)]
    return found


def _changed(document: object, luck: random.Random) -> object:
    """Replace, remove, add or double a value."""
    places = _places(document)
    if not places or luck.random() < 0.02:
        return luck.choice(_VALUES)
    container, key = luck.choice(places)
    value = copy.deepcopy(luck.choice(_VALUES) if luck.random() < 0.8 else luck.choice(places)[0])
    if isinstance(container, dict):
        match luck.randrange(8):
            case 0:
                del container[key]
            case 1:
                container[luck.choice(("", "a", "a\nb", "\x1b", "\ud800", "k" * 5000))] = value
            case _:
                container[key] = value
    elif isinstance(container, list) and isinstance(key, int):
        match luck.randrange(6):
            case 0:
                del container[key]
            case 1:
                container.insert(key, value)
            case 2:
                container.extend(copy.deepcopy(container) * luck.choice((1, 3)))
            case _:
                container[key] = value
    return document


def _spoilt(content: bytes, luck: random.Random) -> bytes:
    """Bytes that may be no JSON."""
    match luck.randrange(7):
        case 0:
            return content[: luck.randrange(1 + len(content))]
        case 1:
            place = luck.randrange(1 + len(content))
            return content[:place] + luck.randbytes(luck.choice((1, 4, 100))) + content[place:]
        case 2:
            return content.replace(b"{", b'{"schema": "1.0", ', 1)
        case 3:
            return b"[" * 200_000
        case 4:
            return b"\xef\xbb\xbf" + content
        case 5:
            return content.replace(b"1", b"1" * 5000, 1)
        case _:
            return content.decode().encode("utf-16")
