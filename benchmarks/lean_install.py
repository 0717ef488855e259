"""Measure the lean install: size on disk, import time, and that it predicts and verifies without training libraries.

    python benchmarks/lean_install.py BUNDLE

Makes a virtual environment in a temporary folder and installs this checkout with `[ort]` from the package index.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from recording import save_result, spread

IMPORT = "import time; start = time.perf_counter(); import edgetl.runtime; print(time.perf_counter() - start)"
MISSING = ("torch", "torchvision", "onnx", "sklearn")
ROUNDS = 7


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("bundle", type=Path)
    bundle = parser.parse_args().bundle.resolve()
    checkout = Path(__file__).parents[1]
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        python, edgetl = Path(folder) / "bin" / "python", Path(folder) / "bin" / "edgetl"

        def run(*words: str | Path) -> str:
            return subprocess.run(words, check=True, capture_output=True, text=True, cwd=folder).stdout

        site = next(Path(folder).glob("lib/python*/site-packages"))
        before = size_of(site)
        run(python, "-m", "pip", "install", "--quiet", f"{checkout}[ort]")
        added = size_of(site) - before
        present = [name for name in MISSING if (site / name).exists()]
        if present:
            sys.exit(f"the lean install brought {', '.join(present)}")
        photo = next((bundle / "golden").glob("000.*"))
        answer = json.loads(run(edgetl, "predict", bundle, photo, "--json"))["predictions"][0]
        verified = json.loads(run(edgetl, "verify", bundle, "--json"))
        times = [float(run(python, "-c", IMPORT)) for _ in range(ROUNDS)]
        installed = run(python, "-m", "pip", "list", "--format", "freeze").split()
    save_result(
        "lean_install",
        {
            "installed_bytes": added,
            "import_seconds": spread(times),
            "predicts": answer["label"],
            "verified_files": verified["files"],
            "installed": installed,
            "samples": {"import_seconds": times},
        },
    )


def size_of(folder: Path) -> int:
    """Return the bytes of all files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file() and not path.is_symlink())


if __name__ == "__main__":
    main()
