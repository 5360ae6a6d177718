from __future__ import annotations

import pytest

from . import simulated


@pytest.fixture(scope="session")
def simulated_gpu(tmp_path_factory: pytest.TempPathFactory) -> simulated.SimulatedGpu:
    """A GPU for processes of their own: `simulated_gpu.run("-c", code)`, or its `environment`."""
    pytest.importorskip("cuda.bindings")
    gpu = simulated.build(tmp_path_factory.getbasetemp().parent)
    if gpu is None:
        pytest.skip("needs g++ on Linux, to compile the simulated GPU")
    return gpu
