"""Serves a bundle whose plan each device makes for itself: ONNX Runtime answers until the plan is there and proved."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import threading
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import IO

from edgetl.bundle import Artifact, Bundle
from edgetl.compile.for_tensorrt import load_tensorrt
from edgetl.errors import DeviceLostError, EdgetlError, ExportError, MissingError, ParityError, SessionError
from edgetl.records import FloatArray, ImageArray, Progress, Record
from edgetl.runtime.cudart import Cuda, open_cuda
from edgetl.runtime.golden import replay_golden
from edgetl.runtime.on_tensorrt import TensorRtSession
from edgetl.runtime.plans import find_plan, make_plan, plan_key
from edgetl.runtime.session import PLANNED, Session, find_stand_in, open_file, stands_in

__all__ = ["CompiledBundle", "PlannedSession", "compile_bundle", "open_planned"]

LOG = logging.getLogger("edgetl")


class CompiledBundle(Record):
    """What `edgetl compile` made; `path` is None where the bundle runs as it is."""

    bundle: str
    path: str | None
    plan: str | None
    failed: tuple[str, ...] = ()


def open_planned(
    bundle: Bundle, threads: int | None = None, fallback: bool = False, build: bool = True
) -> PlannedSession:
    """Return a session on a bundle's plan or, until there is one, on what stands in for it.

    Args:
        bundle: a bundle for TensorRT.
        threads: of what stands in; None for the manifest's.
        fallback: go on through ONNX Runtime if the GPU does not answer any more.
        build: let a process of its own build a plan that is missing, and change over to it.

    Raises:
        BundleError: an artifact is damaged.
        DeviceLostError: the GPU does not answer.
        MissingError: TensorRT or the GPU is not here.
    """
    session = PlannedSession(bundle, threads, fallback)
    if session.degraded and build:
        session.build()
    elif session.degraded:
        LOG.warning("%s. Run: edgetl compile %s", session.degraded, bundle.folder)
    return session


def compile_bundle(folder: str | Path, progress: Progress, force: bool = False) -> CompiledBundle:
    """Return which of a bundle's artifacts this device has a plan of now, building the first that it can.

    Args:
        folder: the bundle.
        progress: shows the builder's phases, and why an artifact was passed over.
        force: build even if a plan is there.

    Raises:
        BundleError: no bundle there, or a damaged one.
        ExportError: this device can build none of them.
        MissingError: TensorRT or the GPU is not here, or the disk is full.
    """
    bundle = Bundle.open(folder)
    typed = [artifact for artifact in bundle.manifest.artifacts if artifact.engine == PLANNED]
    if not typed:
        return CompiledBundle(bundle=str(folder), path=None, plan=None)
    load_tensorrt()
    cuda = open_cuda()
    keys = {each.path: plan_key(bundle.read_model(each).graph, each, cuda) for each in typed}
    if not force:  # a device that cannot build the first need not try that again
        typed = [each for each in typed if find_plan(keys[each.path])] or typed
    failed = []
    for artifact in typed:
        prove = partial(_prove, bundle, artifact, cuda)
        try:
            make_plan(keys[artifact.path], bundle.read_model(artifact).graph, artifact, prove, progress, force)
        except DeviceLostError:
            raise
        except (ExportError, ParityError, SessionError) as error:
            failed.append(f"{artifact.path} ({artifact.precision}): {error}")
            progress.say(f"passed over {failed[-1]}")
            continue
        plan = str(keys[artifact.path].folder)
        return CompiledBundle(bundle=str(folder), path=artifact.path, plan=plan, failed=tuple(failed))
    raise ExportError(f"{folder}: this device can build none of its artifacts: {'; '.join(failed)}")


def _prove(bundle: Bundle, artifact: Artifact, cuda: Cuda, plan: bytes) -> None:
    """Return if a plan answers the golden photos as the build did; raises as `replay_golden` and the session do."""
    with closing(TensorRtSession(plan, artifact, cuda)) as session:
        replay_golden(bundle, session)


class PlannedSession:
    """A session that changes over from ONNX Runtime to the plan when that is there; safe to call from any thread."""

    def __init__(self, bundle: Bundle, threads: int | None, fallback: bool) -> None:
        self._bundle = bundle
        self._threads = threads
        self._fallback = fallback
        self._child: subprocess.Popen[str] | None = None
        self._lock = threading.Lock()
        self._closed = False
        planned = self._open_plan()
        self._current: Session = planned or self._open_stand_in("there is no plan for this device yet")
        self.degraded = self._current.degraded

    @property
    def artifact(self) -> Artifact:
        """What answers now."""
        return self._current.artifact

    def run(self, images: ImageArray) -> FloatArray:
        """Return logits of shape (images, classes); see `Session.run`."""
        current = self._current
        try:
            return current.run(images)
        except DeviceLostError as error:
            if not self._fallback:
                raise
            with self._lock:
                if self._current is current:
                    self._current = self._open_stand_in(str(error))
                    self.degraded = self._current.degraded
                    LOG.warning("%s", self.degraded)
                    current.close()
        except SessionError:
            if self._current is current:
                raise
        # It was closed by a change over while this call was on its way to it.
        return self._current.run(images)

    def close(self) -> None:
        """Close the session, and end the build that it started: no half plan is left."""
        with self._lock:
            self._closed = True
            if self._child is not None:
                self._child.terminate()
            self._current.close()

    def build(self) -> None:
        """Let a process of its own build the plan, and change over to it when it is there and proved."""
        # A file, not a pipe: the build goes on if this process ends first, and what it says must not stop it.
        said = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115  # `_change_over` closes it
        command = [sys.executable, "-m", "edgetl", "compile", str(self._bundle.folder)]
        self._child = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=said, text=True
        )
        LOG.warning("%s; it is being built", self.degraded)
        threading.Thread(target=self._change_over, args=(self._child, said), name="edgetl-plan", daemon=True).start()

    def _change_over(self, child: subprocess.Popen[str], said: IO[str]) -> None:
        code = child.wait()
        with said:
            said.seek(0)
            lines = said.read().strip().splitlines()
        why = f"signal {-code} ended the build" if code < 0 else lines[-1] if lines else "no reason is given"
        with self._lock:
            if self._closed:
                return
            try:
                planned = self._open_plan() if code == 0 else None
            except EdgetlError as error:
                planned, why = None, str(error)
            if planned is None:
                self.degraded = stands_in(self._current.artifact, f"the plan could not be built: {why}")
                LOG.warning("%s", self.degraded)
                return
            before, self._current, self.degraded = self._current, planned, None
            LOG.warning("%s answers now, through TensorRT", planned.artifact.path)
            before.close()

    def _open_plan(self) -> Session | None:
        """Return a session on the first artifact that this device has a good plan of, None where it has none."""
        load_tensorrt()
        cuda = open_cuda()
        for artifact in self._bundle.manifest.artifacts:
            if artifact.engine == PLANNED:
                plan = find_plan(plan_key(self._bundle.read_model(artifact).graph, artifact, cuda))
                try:
                    if plan is not None:
                        return TensorRtSession(plan, artifact, cuda)
                except DeviceLostError:
                    raise
                except SessionError as error:
                    LOG.warning("a plan cannot be loaded, and is to be made anew: %s", error)
        return None

    def _open_stand_in(self, why: str) -> Session:
        stand_in = find_stand_in(self._bundle)
        if stand_in is None:
            raise MissingError(f"{why}, and the bundle holds nothing else. Run: edgetl compile {self._bundle.folder}")
        session = open_file(self._bundle, stand_in, self._threads)
        session.degraded = stands_in(session.artifact, why)
        return session
