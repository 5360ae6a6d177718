"""The bundles that a check is about: read, or made for it."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from fctl.runtime import remedies
from fctl.runtime.bundle.store import Bundle, read_bundle, sha256
from fctl.runtime.errors import EngineError, InputError

from .candidates import Subject
from .findings import Findings, announce

PRESET_CLASSES = 6


def subjects(
    findings: Findings, bundles: Sequence[str], checkpoints: Sequence[Path], presets: Sequence[str], scratch: Path
) -> list[Subject]:
    """Read or make the bundles asked for.

    Args:
        findings: Where what cannot be read or made is noted.
        bundles: Bundles by name; none and no preset for the shipped bundle, with fp16 graphs added.
        checkpoints: Checkpoints of bundles, in any order.
        presets: Presets to export with random weights.
        scratch: A folder for what is made.

    Returns:
        The bundles that there are.
    """
    known = {sha256(path): path for path in checkpoints if path.is_file()}
    for path in checkpoints:
        if not path.is_file():
            findings.skip("-", f"--checkpoint {path}", "there is no such file")
    found = []
    for name in bundles or ([] if presets else ["default"]):
        bundle = findings.loading(name, "the bundle", partial(read_bundle, name))
        if bundle and not bundles:
            bundle = _with_half(findings, bundle, scratch)
        if bundle:
            checkpoint = known.pop(bundle.manifest.provenance.checkpoint_sha256, None)
            found.append(Subject(name=bundle.manifest.name, bundle=bundle, checkpoint=checkpoint))
    for path in known.values():
        findings.skip("-", f"--checkpoint {path}", "none of the bundles was exported from it")
    for name in presets:
        made = findings.loading(name, "the preset", partial(_preset, findings, name, scratch))
        found += [made] if made else []
    return found


def _with_half(findings: Findings, bundle: Bundle, scratch: Path) -> Bundle:
    """A copy of a bundle with fp16 graphs beside the others; the bundle itself where there can be none."""

    def convert() -> Bundle:
        if importlib.util.find_spec("onnx") is None:
            raise EngineError(f"onnx is not installed ({remedies.install('quant')})")
        from fctl.export.precision.add import PrecisionOptions, add_precision

        out = scratch / "half" / f"{bundle.manifest.name}.fctl"
        add_precision(bundle, out, PrecisionOptions(precision="fp16"))
        return read_bundle(out)

    if "fp16" in bundle.manifest.precisions:
        return bundle
    announce(f"making fp16 graphs of {bundle.manifest.name}")
    return findings.loading(bundle.manifest.name, "fp16 graphs", convert) or bundle


def _preset(findings: Findings, name: str, scratch: Path) -> Subject:
    """A preset with random weights, with fp16 graphs where they can be made."""
    missing = [package for package in ("torch", "onnx", "onnxscript") if importlib.util.find_spec(package) is None]
    if missing:
        raise EngineError(f"{', '.join(missing)} not installed ({remedies.install('export')})")
    from fctl.model.config import ConfigError

    from .random_weights import make_preset, with_half

    announce(f"exporting {name} with random weights")
    try:
        made = make_preset(name, scratch, classes=PRESET_CLASSES)
    except ConfigError as error:
        raise InputError(str(error)) from error
    half = partial(with_half, made.bundle, scratch / "half" / f"{name}.fctl")
    bundle = findings.loading(name, "fp16 graphs", half) or made.bundle
    return Subject(name=name, bundle=bundle, checkpoint=made.checkpoint, random=True)
