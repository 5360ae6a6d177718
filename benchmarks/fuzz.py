"""Hostile bundles against checks and engines: python -m benchmarks.fuzz [--minutes 10] [--seed 0] [--keep DIR].

In a tenth of the time, manifests, records of plans, descriptions of data sets and configs of trainings are damaged at
random and read; anything but a document or an error of fctl's own on one line is a finding.

In the rest, graphs of bundles are damaged. Each is judged by the checks of `read_bundle`, and loaded and run in every
engine of the CPU, in a process of its own. The table counts what became of all graphs, of those that hold their own
weights, and of those that pass all checks.
"""

from __future__ import annotations

import argparse
import itertools
import json
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import onnx

from benchmarks.parts.documents import DESCRIPTION, RECORD, damaged
from benchmarks.parts.mutants import mutants
from benchmarks.parts.victims import Victim
from fctl.model.train.config import read_config
from fctl.runtime.bundle.contents import check_graph
from fctl.runtime.bundle.graphs import read_graph
from fctl.runtime.bundle.manifest import GraphSpec
from fctl.runtime.bundle.protobuf import NoGraphError
from fctl.runtime.bundle.records import encode
from fctl.runtime.bundle.store import read_bundle
from fctl.runtime.engines.tensorrt.plans import read_record
from fctl.runtime.errors import BundleError, FctlError
from fctl.runtime.evaluate.description import read_description

ENGINES = ("onnxruntime", "openvino")
DATA = Path(__file__).parents[1] / "tests" / "data"
CONFIG = Path(__file__).parents[1] / "docs" / "dubai-training.json"
_ACCEPTED = 2
_SECONDS = 20  # until a graph counts as one that hangs


def main() -> None:
    """Print one table, and the damage that ended an engine all the same."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="Where graphs are kept that passed the checks and ended an engine.")
    arguments = parser.parse_args()
    read_documents(arguments.seed, time.monotonic() + 6 * arguments.minutes)
    end, fates = time.monotonic() + 54 * arguments.minutes, Counter[tuple[str, int, str]]()
    victims, tried, passed = [Victim(name) for name in ENGINES], 0, 0
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "graph.onnx"
        for graph, damage, content in cases(arguments.seed):
            if time.monotonic() > end:
                break
            path.write_bytes(content)
            stage, tried = checked(path, graph), tried + 1
            accepted = stage == _ACCEPTED
            passed += accepted
            for victim in victims:
                fate = victim.fate(path, encode(graph), _SECONDS)
                fates[victim.backend, stage, fate] += 1
                if accepted and is_death(fate):
                    print(f"{victim.backend}: {fate}: {damage} of {graph.file}", flush=True)
                    if arguments.keep:
                        arguments.keep.mkdir(exist_ok=True)
                        (arguments.keep / f"{victim.backend}-{tried}.onnx").write_bytes(content)
    for victim in victims:
        victim.close()
    print(f"{tried} graphs, {passed} passed the checks")
    print("| engine | fate | of all graphs | with weights of their own | that pass all checks |\n|---|---|---|---|---|")
    for engine, fate in sorted({(engine, fate) for engine, _, fate in fates}):
        counts = [sum(fates[engine, stage, fate] for stage in range(least, _ACCEPTED + 1)) for least in range(3)]
        print(f"| {engine} | {fate} | {' | '.join(map(str, counts))} |")


def read_documents(seed: int, end: float) -> None:
    """Read damaged documents until the time is over, and print how many were believed, and how many were trouble."""
    kinds: dict[str, tuple[object, Callable[[Path], object]]] = {
        "manifest.json": (json.loads((DATA / "tiny.fctl" / "manifest.json").read_text("utf-8")), _bundle_of),
        "record.json": (RECORD, read_record),
        "dataset.json": (DESCRIPTION, read_description),
        "config.json": (json.loads(CONFIG.read_text("utf-8")), read_config),
    }
    tried, believed, findings = Counter[str](), Counter[str](), Counter[str]()
    with tempfile.TemporaryDirectory() as folder:
        bundle = shutil.copytree(DATA / "tiny.fctl", Path(folder) / "tiny.fctl")
        for number, (name, (document, read)) in enumerate(itertools.cycle(kinds.items())):
            if time.monotonic() > end:
                break
            path = bundle / name
            path.write_bytes(damaged(document, random.Random(f"{seed}/{number}")))
            tried[name] += 1
            try:
                read(path)
                believed[name] += 1
            except FctlError as error:
                findings[name] += "\n" in printable_line(error)
            except Exception as error:
                findings[name] += 1
                print(f"{name} {seed}/{number}: {type(error).__name__}: {error}"[:300], flush=True)
    print("| document | damaged | believed | findings |\n|---|---|---|---|")
    for name in kinds:
        print(f"| {name} | {tried[name]} | {believed[name]} | {findings[name]} |")


def printable_line(error: FctlError) -> str:
    """The line of an error; anything but one line of text that can be written is a finding."""
    line = str(error)
    line.encode("utf-8")
    return line


def _bundle_of(manifest: Path) -> object:
    return read_bundle(manifest.parent)


def cases(seed: int) -> Iterator[tuple[GraphSpec, str, bytes]]:
    """Damaged graphs without end, with what their manifests say of them and what was done to them."""
    bundles = [read_bundle(path) for path in sorted(DATA.glob("*.fctl"))] + [read_bundle("default")]
    graphs = [(graph, onnx.load(bundle.folder / graph.file)) for bundle in bundles for graph in bundle.manifest.graphs]
    streams = [(graph, mutants(model, seed + index)) for index, (graph, model) in enumerate(graphs)]
    for graph, stream in itertools.cycle(streams):
        damage, content = next(stream)
        yield graph, damage, content


def checked(path: Path, graph: GraphSpec) -> int:
    """How far a graph gets: 0 with weights elsewhere or no protobuf, 1 where other checks refuse it, 2 otherwise."""
    try:
        if read_graph(path).external is not None:
            return 0
        check_graph(path, graph, "graph")
    except NoGraphError:
        return 0
    except BundleError:
        return 1
    return _ACCEPTED


def is_death(fate: str) -> bool:
    """Whether the engine's process ended, or never would."""
    return fate == "hung" or fate.startswith(("SIG", "exit"))


if __name__ == "__main__":
    main()
