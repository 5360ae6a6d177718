"""Compile kernels.cu to kernels.ptx, which a GPU's driver translates when it is loaded: needs CUDA's nvcc.

The version that nvcc writes is lowered, so that older drivers take the file: nothing newer is used, as ptxas confirms.
The first line holds the hash of the source, so that a test without nvcc finds a stale file.
"""

from __future__ import annotations

import re
import subprocess
from hashlib import sha256
from pathlib import Path

FOLDER = Path(__file__).parent
SOURCE, TARGET = FOLDER / "kernels.cu", FOLDER / "kernels.ptx"
VERSION = "8.0"  # of CUDA 12.0: OLDEST_DRIVER in driver.py
COMMAND = ("nvcc", "-ptx", "-arch=compute_75", "-fmad=false", str(SOURCE), "-o", "-")


def main() -> None:
    """Write kernels.ptx."""
    found = subprocess.run(COMMAND, check=True, capture_output=True, text=True).stdout
    code = "\n".join(line for line in found.splitlines() if line and not line.startswith("//"))
    lowered = re.sub(r"^\.version .*$", f".version {VERSION}", code, count=1, flags=re.MULTILINE)
    digest = sha256(SOURCE.read_bytes()).hexdigest()
    TARGET.write_text(f"// kernels.cu, sha256 {digest}\n{lowered}\n", encoding="utf-8")


if __name__ == "__main__":
    main()
