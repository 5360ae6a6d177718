"""Bundles that were validated for bf16: how far their fp32 graphs, computed in bf16, agree with fp32."""

from __future__ import annotations

import logging
from dataclasses import asdict, replace
from pathlib import Path

from fctl.runtime.atomic import atomic_write, refuse_existing
from fctl.runtime.bundle.manifest import SCHEMA
from fctl.runtime.bundle.store import Bundle, read_bundle, write_manifest
from fctl.runtime.bundle.verdicts import Bf16Verdict
from fctl.runtime.engines.choose import choose_engine
from fctl.runtime.errors import EngineError
from fctl.runtime.progress import StageProgress
from fctl.runtime.segment.opening import encodes_once

from .compare import ComparedOn, Way, difference
from .copies import copy_files

log = logging.getLogger(__name__)

_ENGINE = "openvino"  # the only one that computes in bf16


def validate_bf16(bundle: Bundle, out: Path, on: ComparedOn, progress: StageProgress | None = None) -> Bundle:
    """Copy a bundle, and note in the copy what bf16 changes on some images.

    Args:
        bundle: The bundle.
        out: The folder of the copy.
        on: What to compare on; labelled images alone, where there are some.
        progress: Called with the patches of each run.

    Returns:
        The copy. `precision="auto"` may take bf16 where few enough pixels changed their class, or little enough mIoU
        was lost (`Bf16Verdict.passed`).

    Raises:
        EngineError: OpenVINO is not installed, or this processor does not compute in bf16.
        InputError: There are no images.
        RasterError: An image cannot be read, or does not fit the bundle.
        OutputError: `out` exists already, or cannot be written. After any error nothing is left behind.
    """
    refuse_existing(out, remedy="bundles are never changed: choose another `out`, or remove it")
    _check_processor()
    once = encodes_once(bundle, "auto")  # as it will be run
    ways = Way(engine=_ENGINE, once=once), Way(engine=_ENGINE, precision="bf16", once=once)
    with atomic_write(out) as folder:
        copy_files(bundle.folder, folder)
        verdict = Bf16Verdict(**asdict(difference(bundle, ways, on, progress)))
        log.info("bf16: %s", verdict.in_words)
        write_manifest(folder, replace(bundle.manifest, schema=SCHEMA, name=out.stem, bf16=verdict))
    return read_bundle(out)


def _check_processor() -> None:
    """Raise EngineError where bf16 cannot be measured."""
    choose_engine(_ENGINE, "fp32").close()  # says how to install it
    try:
        choose_engine(_ENGINE, "bf16").close()
    except EngineError:
        raise EngineError(
            "bf16 cannot be measured here: this processor has no instructions for it",
            remedy="validate the bundle on one that has (AVX512_BF16 or AMX)",
        ) from None
