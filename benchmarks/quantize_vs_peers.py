"""Compare what a build ships with what other quantizers make of the same float graph, on ONNX Runtime and OpenVINO.

    python benchmarks/train_networks.py --cifar cifar10-jpeg.zip --out NETS
    python benchmarks/quantize_vs_peers.py --nets NETS [--python nncf=VENV/bin/python ...] [--only NAME ...]

Peers have the build's calibration photos, their own defaults (`quantize_peer.py`), the same engine and its options; a
peer that needs an environment of its own gets its interpreter by `--python`. Accuracy is on the photos that nothing was
chosen by, paired image by image. What ships is timed against each rival in pairs, in turn, on sessions opened anew
several times; the medians count. A peer's graph reads floats that are ready, so its scaling of the photo is not timed.
With `--only`, the other networks' figures stay as they were recorded.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from quantize_peer import planes
from recording import assets, recorded, save_result, spread
from train_networks import COURSES

from edgetl.bench import interleave
from edgetl.bundle import Bundle
from edgetl.data import image_batches, labels_of
from edgetl.metrics import accuracy, compare_paired
from edgetl.pipeline import BuildReport, BuildSettings, Plan, build_each, make_plans
from edgetl.pipeline.artifacts import open_written
from edgetl.pipeline.plan import BATCH
from edgetl.pipeline.results import CompiledStage
from edgetl.records import FloatArray, ImageArray, IntArray, Quiet
from edgetl.runtime import Session, open_session
from edgetl.runtime.on_onnxruntime import session_options

NAME = "quantize_vs_peers"
SESSIONS, ROUNDS, PER_ROUND = 15, 4, 15
# A peer that takes longer to quantize a network is cut: edgetl's whole build takes less.
PATIENCE_SECONDS = 900
# Target -> the peers that are compared with there, and the suffix of what they make.
TARGETS = {
    "cpu": {"onnxruntime": ".onnx", "nncf": ".onnx", "modelopt": ".onnx", "neural_compressor": ".onnx"},
    "intel-cpu": {"nncf_openvino": ".xml", "onnxruntime": ".onnx", "modelopt": ".onnx", "neural_compressor": ".onnx"},
}
Run = Callable[[Any], FloatArray]


class Shown(Quiet):
    """Says on the screen which stage is done."""

    def say(self, line: str) -> None:
        print(f"  {line}", file=sys.stderr, flush=True)


@dataclass(frozen=True, kw_only=True, slots=True)
class Rival:
    """Something that answers: how a fresh engine on it is opened, and what a photo must be made into for it."""

    open: Callable[[], Run]
    feed: Callable[[ImageArray], Any]


def builds_of(nets: Path, out: Path) -> dict[str, dict[str, Any]]:
    """Return what is built of each network, by its name: trained by edgetl, or before."""
    trashnet = {"data": str(assets() / "data" / "trashnet"), "out": out}
    squeezenet = str(assets() / "weights" / "squeezenet1_1-imagenet1k.safetensors")
    before = {"data": str(nets / "photos"), "out": out, "epochs": 0, "fit": "squash"}
    named = {
        "squeezenet1_1": {**trashnet, "backbone": "torchvision/squeezenet1_1", "weights": squeezenet},
        "nano": {**trashnet, "backbone": "edgetl/nano"},
    }
    for name, course in COURSES.items():
        weights, side = str(nets / f"{name}.pth"), course.side
        named[name] = {**before, "backbone": f"torchvision/{name}", "weights": weights, "image_size": side}
    return named


def on_session(session: Session) -> Run:
    """Return a call of an edgetl session."""
    return session.run


def on_onnxruntime(path: Path) -> Run:
    """Return a call of ONNX Runtime on a peer's file."""
    import onnxruntime

    session = onnxruntime.InferenceSession(path, session_options(threads=0), providers=["CPUExecutionProvider"])
    return lambda feed: session.run(None, {"image": feed})[0]


def on_openvino(path: Path) -> Run:
    """Return a call of OpenVINO on a peer's file, compiled for as many images as come."""
    from edgetl.compile.openvino_core import the_core

    how = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 0}
    core = the_core("run a peer's graph")
    requests: dict[int, Any] = {}

    def run(feed: FloatArray) -> FloatArray:
        if len(feed) not in requests:
            model = core.read_model(path)
            model.reshape(feed.shape)
            requests[len(feed)] = core.compile_model(model, "CPU", how).create_infer_request()
        return requests[len(feed)].infer([feed], share_inputs=True)[0]

    return run


ENGINES = {"onnxruntime": on_onnxruntime, "openvino": on_openvino}


def quantize_by(peer: str, python: str, core: Path, photos: Path, made: Path) -> tuple[str, str | None]:
    """Return a peer's version and None, or "" and why it made nothing; what it made before is not made again."""
    version = made.with_suffix(".version")
    if version.exists():
        return version.read_text(), None
    script = Path(__file__).with_name("quantize_peer.py")
    own = shutil.copy(core, made.with_suffix(".core.onnx"))  # some infer its shapes in place
    command = [python, script, peer, own, photos, made]
    try:
        ran = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    except subprocess.TimeoutExpired:
        return "", f"not done after {PATIENCE_SECONDS / 60:g} minutes, and cut"
    lines = [line for line in (ran.stdout if ran.returncode == 0 else ran.stderr).splitlines() if line.strip()]
    if ran.returncode != 0:
        return "", lines[-1] if lines else f"exit {ran.returncode}"
    version.write_text(lines[-1])
    return lines[-1], None


def compare(
    bundle: Bundle, plan: Plan, pythons: Mapping[str, str], scratch: Path
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return how a bundle stands beside float and the peers, and the milliseconds of every call that was timed."""
    engine, report = plan.target.engine.name, BuildReport.model_validate_json(bundle.read("report.json"))
    photos = np.concatenate(list(image_batches(plan.photos.usable, plan.calibration_photos, plan.faced, BATCH)))
    # Two targets may give a peer the same graph and photos.
    work = scratch / hashlib.sha256(plan.core.read_bytes() + photos.tobytes()).hexdigest()[:16]
    work.mkdir(exist_ok=True)
    np.save(work / "photos.npy", photos)
    rows = plan.photos.rows_of(plan.photos.unseen)
    labels, image = labels_of(plan.photos.unseen), next(plan.read_kept(rows[:1]))
    float_ = plan.as_run(plan.compiled.read("compiled", CompiledStage).of("fp32"))
    rivals = {
        "edgetl": Rival(open=lambda: on_session(open_session(bundle)), feed=lambda photos: photos),
        "float": Rival(open=lambda: on_session(open_written(plan.compiled.folder, float_)), feed=lambda photos: photos),
    }
    figures: dict[str, Any] = {"versions": {}, "failed": {}}
    for peer, suffix in TARGETS[plan.target.name].items():
        made = work / f"{peer}{suffix}"
        python = pythons.get(peer.partition("_openvino")[0], sys.executable)
        version, problem = quantize_by(peer, python, plan.core, work / "photos.npy", made)
        if problem is None:
            rivals[peer] = Rival(open=lambda made=made: ENGINES[engine](made), feed=planes)  # type: ignore[misc]
            figures["versions"][peer] = version
        else:
            figures["failed"][peer] = problem
    answers: dict[str, IntArray] = {}
    for name, rival in list(rivals.items()):
        try:
            run = rival.open()
            answers[name] = np.concatenate([run(rival.feed(some)) for some in plan.read_kept(rows)]).argmax(axis=1)
        except Exception as error:  # noqa: PERF203, an engine that cannot read a peer's graph has a class of its own
            figures["failed"][name] = str(error).strip().splitlines()[-1]
            del rivals[name]
    figures |= {
        "images": len(labels),
        "float_accuracy": accuracy(answers["float"], labels),
        "ships": report.judged.verdict.precision,
        "reason": report.judged.verdict.reason,
        "tried": [one.model_dump(mode="json") for one in report.tried],
        "drop_points": {},
        "interval": {},
        "loses_more_than_edgetl_p": {},
        "edgetl_over_it": {},
    }
    samples = {}
    for name, rival in rivals.items():
        drop = compare_paired(answers["float"], answers[name], labels)
        beside = compare_paired(answers[name], answers["edgetl"], labels)
        figures["drop_points"][name], figures["interval"][name] = drop.points, drop.interval
        if name != "edgetl":
            figures["loses_more_than_edgetl_p"][name] = {"points": beside.points, "p_value": beside.p_value}
            ratios, samples[name] = time_pair(rivals["edgetl"], rival, image)
            figures["edgetl_over_it"][name] = {**spread(ratios), "ratios": ratios}
    return figures, samples


def time_pair(ours: Rival, theirs: Rival, image: ImageArray) -> tuple[list[float], list[list[list[float]]]]:
    """Return the ratios of the medians, ours over theirs, of pairs of sessions opened anew, and every sample."""
    ratios, samples = [], []
    for _ in range(SESSIONS):
        calls = {name: partial(each.open(), each.feed(image)) for name, each in (("ours", ours), ("theirs", theirs))}
        timed = interleave(calls, ROUNDS, PER_ROUND)
        ratios.append(timed["ours"].p50_ms / timed["theirs"].p50_ms)
        samples.append([[round(one, 4) for one in timed[name].samples_ms] for name in ("ours", "theirs")])
    return ratios, samples


def table(figures: Mapping[str, Any]) -> str:
    """Return a table of all networks."""
    lines = [
        "| network | engine | ships | float | drop | speed-up | peer: its drop, its time over ours |",
        "|---|---|---|---|---|---|---|",
    ]
    for network, targets in figures.items():
        for target, one in targets.items():
            peers = [
                f"{name}: {one['drop_points'][name]:.2f}, {1 / one['edgetl_over_it'][name]['median']:.2f}"
                for name in one["drop_points"]
                if name not in {"edgetl", "float"}
            ]
            lines.append(
                f"| {network} | {target} | {one['ships']} | {100 * one['float_accuracy']:.2f} | "
                f"{one['drop_points']['edgetl']:.2f} | {1 / one['edgetl_over_it']['float']['median']:.2f} | "
                f"{'; '.join(peers)} |"
            )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", type=Path, required=True)
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PYTHON")
    parser.add_argument("--only", nargs="+")
    options = parser.parse_args()
    pythons = dict(each.split("=", 1) for each in options.python)
    before = {"networks": {}, "samples": {}} | (recorded(NAME) if options.only else {})
    figures, samples = before["networks"], before["samples"]
    with tempfile.TemporaryDirectory() as folder:
        scratch = Path(folder)
        for network, said in builds_of(options.nets, scratch / "out").items():
            if options.only and network not in options.only:
                continue
            print(network, file=sys.stderr, flush=True)
            builds = [
                BuildSettings.model_validate({**said, "target": target, "out": scratch / "out" / network / target})
                for target in TARGETS
            ]
            bundles = list(build_each(builds, Shown()))
            plans = make_plans(builds, Quiet())
            figures[network], samples[network] = {}, {}
            for bundle, plan in zip(bundles, plans, strict=True):
                target = plan.target.name
                figures[network][target], samples[network][target] = compare(bundle, plan, pythons, scratch)
            print(table({network: figures[network]}), flush=True)
            save_result(NAME, {"networks": figures, "samples": samples}, shown=False)
    print(table(figures))


if __name__ == "__main__":
    main()
