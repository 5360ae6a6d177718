"""The scripts of docs/scale.md, as far as they run without SLURM, Kubernetes or a queue."""

from __future__ import annotations

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import write_geotiff

PAGE = Path(__file__).parents[3] / "docs" / "scale.md"
PARTS = 3

pytestmark = [pytest.mark.once, pytest.mark.skipif(not PAGE.is_file(), reason="needs the source tree")]


def blocks(language: str, holding: str) -> list[str]:
    """The page's blocks in a language that hold some text."""
    found = re.findall(rf"^```{language}\n(.*?)^```", PAGE.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    return [block for block in found if holding in block]


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As high as three tiles, for as many parts."""
    pixels = np.random.default_rng(0).integers(0, 256, (700, 200, 3), np.uint8)
    return write_geotiff(tmp_path_factory.mktemp("scale") / "image.tif", pixels)


def run(command: Sequence[str], more: Mapping[str, str]) -> None:
    """Run a command as a job of its own, on the PATH of this environment."""
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    done = subprocess.run(command, env=os.environ | {"PATH": path} | more, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def digests(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


@pytest.fixture(scope="module")
def expected(image: Path) -> dict[str, str]:
    """What one process makes of the image."""
    out = image.with_name("whole")
    run(["fctl-run", str(image), "--out", str(out)], {})
    return digests(out)


def test_the_array_of_slurm_in_any_order_and_twice(image: Path, tmp_path: Path, expected: dict[str, str]) -> None:
    (script,) = blocks("sh", "#SBATCH")
    path, out = tmp_path / "part.sh", str(tmp_path / "masks")
    path.write_text(script)
    for number in (3, 1, 1, 2):
        # the array of a part that is run again has one job, not three
        mine = {"SLURM_ARRAY_TASK_ID": str(number), "SLURM_ARRAY_TASK_COUNT": "1"}
        run(["bash", str(path), str(image), out, str(PARTS)], mine)
    run(["fctl-run", str(image), "--out", out, "--assemble"], {})
    assert digests(tmp_path / "masks") == expected


def test_commands_of_kubernetes(image: Path, tmp_path: Path, expected: dict[str, str]) -> None:
    yaml = pytest.importorskip("yaml")
    parts, assemble = (yaml.safe_load(block) for block in blocks("yaml", "kind: Job"))
    assert parts["spec"]["completionMode"] == "Indexed"
    out = tmp_path / "masks"

    def pod(job: Mapping[str, Mapping[str, object]], **more: str) -> None:
        (container,) = job["spec"]["template"]["spec"]["containers"]  # type: ignore[index]
        values = {variable["name"]: variable["value"] for variable in container["env"]}
        assert values.get("PARTS", "20") == str(parts["spec"]["completions"])
        run([*container["command"], *container["args"]], values | {"IMAGE": str(image), "OUT": str(out)} | more)

    for index in (1, 0, 2):  # the first is 0
        pod(parts, JOB_COMPLETION_INDEX=str(index), PARTS=str(PARTS))
    pod(assemble)
    assert digests(out) == expected


def test_the_cluster_of_dask_jobqueue(image: Path, tmp_path: Path, expected: dict[str, str]) -> None:
    pytest.importorskip("dask_jobqueue")
    (script,) = blocks("python", "dask_jobqueue")
    path = tmp_path / "cluster.py"
    here = script.replace("slurm import SLURMCluster", "local import LocalCluster").replace("cores=4", "cores=1")
    assert here != script
    path.write_text(here)
    run([sys.executable, str(path), str(image), str(tmp_path / "masks"), "1"], {})
    assert digests(tmp_path / "masks") == expected
