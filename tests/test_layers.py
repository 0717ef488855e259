"""The floors of the house: which room may import which, and where each library may be used."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import pytest

PACKAGE = Path(__file__).parents[1] / "edgetl"

# Room -> floor. A room imports from lower floors only; neighbours see each other on floor 0 only.
FLOORS = {
    "errors": 0,
    "records": 0,
    "metrics": 0,
    "options": 0,
    "outcomes": 0,
    "folders": 0,
    "profiles": 0,
    "target": 1,
    "recipe": 1,
    "bundle": 1,
    "compile": 2,
    "runtime": 3,
    "backbones": 4,
    "bench": 4,
    "data": 4,
    "serve": 4,
    "export": 5,
    "finetune": 5,
    "quantize": 5,
    "pipeline": 6,
    "cli": 7,
}
# The front door imports rooms on first use; `python -m edgetl` calls the CLI.
EXEMPT = {"__init__", "__main__"}
# What any room may take: the version, and the packages that hold only TOML.
OPEN_TO_ALL = {"__version__", "_targets", "_calibration"}
# A room whose other imports happen when a verb runs, so that `edgetl --help` is fast -> what it may import at once.
IMPORTS_LATE = {"cli": {"cli", "errors", "records", *OPEN_TO_ALL}}


def floors(first: int, last: int) -> frozenset[str]:
    return frozenset(room for room, floor in FLOORS.items() if first <= floor <= last)


@dataclass(frozen=True, kw_only=True, slots=True)
class Permit:
    """Rooms and files (a pattern, matched from the right) that may import a library; `late`: inside functions only."""

    rooms: frozenset[str] = frozenset(FLOORS)
    files: str = "*"
    late: bool = False


TRAINING = (Permit(rooms=floors(5, 6) | {"backbones"}),)
LIBRARIES = {
    "numpy": (Permit(),),
    "pydantic": (Permit(),),
    "tomli": (Permit(),),  # tomllib for Python 3.10
    "PIL": (Permit(rooms=floors(3, 7)),),
    "torch": TRAINING,
    "torchvision": TRAINING,
    "safetensors": TRAINING,
    # At module level in compile it would break the device, which has no onnx.
    "onnx": (Permit(rooms=floors(5, 7)), Permit(rooms=frozenset({"compile"}), late=True)),
    "onnxruntime": (Permit(rooms=floors(5, 5)), Permit(files="*onnxruntime*.py")),
    "openvino": (Permit(files="*openvino*.py", late=True),),
    "modelopt": (Permit(files="*modelopt*.py", late=True),),
    "nncf": (Permit(files="*nncf*.py", late=True),),
    "tensorrt": (Permit(files="*tensorrt*.py", late=True),),
    "cuda": (Permit(files="runtime/cudart.py", late=True),),
    "sklearn": (Permit(rooms=frozenset({"data", "finetune"}), late=True),),
    "accelerate": (Permit(files="finetune/ranks.py", late=True),),
    "mlflow": (Permit(files="finetune/log.py", late=True),),
    "scipy": (Permit(rooms=frozenset({"finetune"}), late=True),),
    "threadpoolctl": (Permit(rooms=frozenset({"finetune"}), late=True),),
    "fastapi": (Permit(rooms=frozenset({"serve"})),),
    "starlette": (Permit(rooms=frozenset({"serve"})),),
    "uvicorn": (Permit(rooms=frozenset({"serve"})),),
    "uvloop": (Permit(rooms=frozenset({"serve"}), late=True),),
    "prometheus_client": (Permit(rooms=frozenset({"serve"})),),
    "python_multipart": (Permit(rooms=frozenset({"serve"})),),
    "typer": (Permit(rooms=frozenset({"cli"})),),
    "rich": (Permit(rooms=frozenset({"cli"})),),
}
# In the standard library since 3.11, and there is a 3.10 to run the tests on.
STANDARD = sys.stdlib_module_names | {"tomllib"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Import:
    """One imported module, by its absolute name; `late` when it is not imported with the file."""

    module: str
    line: int
    late: bool


def imports_of(path: PurePosixPath, source: str) -> Iterator[Import]:
    """Yield every import of a file, `import_module` with a literal name included; path is relative to edgetl/."""
    package = ("edgetl", *path.parent.parts)
    pending: list[tuple[ast.AST, bool]] = [(ast.parse(source), False)]
    while pending:
        node, late = pending.pop()
        for module in _modules_named(node, package):
            yield Import(module=module, line=getattr(node, "lineno", 0), late=late)
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test).split("."):
            pending += [(child, True) for child in node.body] + [(child, late) for child in node.orelse]
        else:
            inside = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            pending += [(child, inside) for child in ast.iter_child_nodes(node)]


def _modules_named(node: ast.AST, package: tuple[str, ...]) -> list[str]:
    match node:
        case ast.Import():
            return [alias.name for alias in node.names]
        case ast.ImportFrom():
            base = _absolute("." * node.level + (node.module or ""), package)
            return [f"{base}.{alias.name}" for alias in node.names] if base == "edgetl" else [base]
        case ast.Call(
            func=ast.Name(id="import_module" | "__import__") | ast.Attribute(attr="import_module" | "__import__"),
            args=[ast.Constant(value=str(name)) | ast.JoinedStr(values=[ast.Constant(value=str(name)), *_]), *_],
        ):
            return [_absolute(name, package)]
    return []


def _absolute(name: str, package: tuple[str, ...]) -> str:
    tail = name.lstrip(".")
    level = len(name) - len(tail)
    if not level:
        return tail
    return ".".join([*package[: len(package) - level + 1], *([tail] if tail else [])])


def violations(path: str, source: str) -> list[str]:
    """Return one line for each import that the floors forbid; path is relative to edgetl/."""
    file = PurePosixPath(path)
    room = file.parts[0].removesuffix(".py")
    if room in EXEMPT:
        return []
    if room not in FLOORS:
        return [f"{path}: the room {room} has no floor"]
    found = []
    for one in imports_of(file, source):
        top, _, rest = one.module.partition(".")
        wrong = _wrong_room(room, rest.partition(".")[0], one) if top == "edgetl" else _wrong_library(file, top, one)
        if wrong:
            found.append(f"{path}:{one.line}: {wrong}")
    return found


def _wrong_room(room: str, other: str, one: Import) -> str | None:
    if other in OPEN_TO_ALL or other == room:
        return None
    if other not in FLOORS:
        return f"{other or 'edgetl'} is no room: import from the room that defines it"
    if FLOORS[other] > FLOORS[room]:
        return f"{room} (floor {FLOORS[room]}) imports {other} above it (floor {FLOORS[other]})"
    if FLOORS[other] == FLOORS[room] > 0:
        return f"{room} imports its neighbour {other} (floor {FLOORS[room]})"
    if room in IMPORTS_LATE and not one.late and other not in IMPORTS_LATE[room]:
        return f"{room} must import {other} inside a function"
    return None


def _wrong_library(file: PurePosixPath, library: str, one: Import) -> str | None:
    if library in STANDARD:
        return None
    if library not in LIBRARIES:
        return f"{library} is not in the table of libraries"
    room = file.parts[0].removesuffix(".py")
    permits = [permit for permit in LIBRARIES[library] if room in permit.rooms and file.match(permit.files)]
    if not permits:
        return f"{library} may not be imported here"
    if not one.late and all(permit.late for permit in permits):
        return f"{library} must be imported inside a function"
    return None


SOURCES = sorted(path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py"))


@pytest.mark.parametrize("path", SOURCES)
def test_imports_only_go_down(path: str) -> None:
    assert violations(path, (PACKAGE / path).read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    ("path", "source", "words"),
    [
        ("records.py", "from edgetl.bundle import Bundle", "floor 0) imports bundle above it (floor 1)"),
        ("runtime/session.py", "import edgetl.data.readers", "floor 3) imports data above it (floor 4)"),
        ("runtime/session.py", "from edgetl import data", "runtime (floor 3) imports data above it"),
        ("runtime/session.py", "from .. import pipeline", "runtime (floor 3) imports pipeline above it"),
        ("runtime/session.py", "from ..pipeline import build", "runtime (floor 3) imports pipeline above it"),
        ("runtime/__init__.py", "from ..export.graph import export", "runtime (floor 3) imports export above it"),
        ("target.py", "from edgetl.bundle.manifest import Precision", "target imports its neighbour bundle (floor 1)"),
        ("bench/timing.py", "def time():\n    from edgetl import data", "bench imports its neighbour data (floor 4)"),
        ("export/graph.py", "import edgetl.quantize.select as s", "export imports its neighbour quantize"),
        ("bundle/store.py", "import edgetl", "edgetl is no room"),
        ("bundle/store.py", "from edgetl import Bundle", "Bundle is no room"),
        ("attic/box.py", "", "the room attic has no floor"),
        ("bundle/store.py", "if TYPE_CHECKING:\n    from edgetl.runtime import Predictor", "imports runtime above it"),
        ("bundle/store.py", "import_module('edgetl.runtime.session')", "bundle (floor 1) imports runtime above it"),
        ("bundle/store.py", "importlib.import_module(f'edgetl.pipeline.{name}')", "imports pipeline above it"),
        ("bundle/store.py", "import_module('..runtime', __package__)", "bundle (floor 1) imports runtime above it"),
        ("bundle/store.py", "from PIL import Image", "PIL may not be imported here"),
        ("compile/sizes.py", "import numpy, PIL.Image", "PIL may not be imported here"),
        ("runtime/preprocess.py", "import torch.nn as nn", "torch may not be imported here"),
        ("runtime/preprocess.py", "def run():\n    import torch", "torch may not be imported here"),
        ("runtime/preprocess.py", "run = lambda: __import__('torch')", "torch may not be imported here"),
        ("runtime/preprocess.py", "try:\n    import torch\nexcept ImportError:\n    pass", "torch may not be"),
        ("runtime/preprocess.py", "if TYPE_CHECKING:\n    pass\nelse:\n    import torch", "torch may not be"),
        ("data/readers.py", "from torchvision import datasets", "torchvision may not be imported here"),
        ("bench/accuracy.py", "from safetensors.numpy import load", "safetensors may not be imported here"),
        ("cli/build.py", "def build():\n    import torch", "torch may not be imported here"),
        ("runtime/session.py", "import onnx", "onnx may not be imported here"),
        ("compile/for_onnxruntime.py", "import onnx", "onnx must be imported inside a function"),
        ("compile/for_onnxruntime.py", "class A:\n    import onnx", "onnx must be imported inside a function"),
        ("runtime/on_tensorrt.py", "def run():\n    import onnx", "onnx may not be imported here"),
        ("runtime/plans.py", "def run():\n    import tensorrt", "tensorrt may not be imported here"),
        ("runtime/on_tensorrt.py", "def run():\n    from cuda.bindings import runtime", "cuda may not be imported"),
        ("runtime/session.py", "def open():\n    import onnxruntime", "onnxruntime may not be imported here"),
        ("pipeline/stages.py", "import onnxruntime", "onnxruntime may not be imported here"),
        ("data/dataset.py", "from sklearn.datasets import load_digits", "sklearn must be imported inside a function"),
        ("quantize/select.py", "def pick():\n    import sklearn", "sklearn may not be imported here"),
        ("bench/report.py", "from rich.table import Table", "rich may not be imported here"),
        ("records.py", "import typer", "typer may not be imported here"),
        ("data/readers.py", "import pandas", "pandas is not in the table of libraries"),
        ("cli/app.py", "from edgetl.pipeline import build", "cli must import pipeline inside a function"),
        ("cli/app.py", "if ready:\n    import edgetl.metrics", "cli must import metrics inside a function"),
    ],
)
def test_a_forbidden_import_is_found(path: str, source: str, words: str) -> None:
    found = violations(path, source)

    assert len(found) == 1
    assert words in found[0]


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("__init__.py", "from edgetl.pipeline import build"),
        ("__main__.py", "from edgetl.cli.app import main"),
        ("metrics.py", "from edgetl.records import IntArray"),
        (
            "runtime/session.py",
            "import tomllib, json\nfrom edgetl.runtime import preprocess\nfrom .preprocess import fit",
        ),
        ("runtime/predictor.py", "from edgetl.compile import compile_graph\nfrom PIL import Image"),
        ("runtime/on_onnxruntime.py", "import onnxruntime as ort"),
        ("runtime/session.py", "import_module(f'edgetl.runtime.on_{name}')\nimport_module('.golden', __package__)"),
        ("compile/for_onnxruntime.py", "import onnxruntime\ndef compile_graph():\n    import onnx"),
        ("backbones/zoo.py", "import torch, torchvision\nfrom safetensors.torch import load_file"),
        ("data/readers.py", "def digits():\n    from sklearn.datasets import load_digits"),
        ("quantize/by_onnxruntime.py", "import onnx, onnxruntime"),
        ("export/parity.py", "import onnxruntime, torch"),
        ("pipeline/build.py", "from edgetl import __version__, data\nimport onnx, torch"),
        ("target.py", "from importlib import resources\nfrom edgetl import _targets"),
        ("cli/app.py", "import typer\nfrom edgetl.cli import build\nfrom edgetl.errors import EdgetlError"),
        ("cli/build.py", "def build():\n    from edgetl.pipeline import build"),
        ("cli/build.py", "if typing.TYPE_CHECKING:\n    from edgetl.pipeline import BuildSettings"),
    ],
)
def test_a_permitted_import_is_left_alone(path: str, source: str) -> None:
    assert violations(path, source) == []


def test_a_violation_says_in_which_file_and_line() -> None:
    assert violations("bundle/store.py", "import json\n\nimport torch\n") == [
        "bundle/store.py:3: torch may not be imported here"
    ]
