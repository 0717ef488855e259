"""Tests of edgetl/runtime/cudart.py: the bindings, and the library itself, by one made of host memory."""

from __future__ import annotations

import ctypes
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fake_cudart import make_cudart

from edgetl.errors import DeviceLostError, MissingError
from edgetl.runtime import cudart
from edgetl.runtime.cudart import SIGNATURES, Bindings, Cuda, Library, open_cuda

# Each function as NVIDIA's header declares it; what is copied is copied at once, what is captured is counted.
SOURCE = r"""
#include <stdlib.h>
#include <string.h>
typedef int cudaError_t; typedef void *cudaStream_t; typedef void *cudaGraph_t; typedef void *cudaGraphExec_t;
static int lost, launches;
void lose(int yes) { lost = yes; }
int launched(void) { return launches; }
#define WHEN_THERE if (lost) return 46
cudaError_t cudaDeviceGetAttribute(int *value, int attr, int device) {
    WHEN_THERE; *value = attr == 75 ? 8 : attr == 76 ? 7 : attr == 16 ? 8 : -1; return device; }
cudaError_t cudaRuntimeGetVersion(int *v) { WHEN_THERE; *v = 12060; return 0; }
cudaError_t cudaDriverGetVersion(int *v) { WHEN_THERE; *v = 12061; return 0; }
cudaError_t cudaGetDeviceProperties_v2(char *p, int device) { WHEN_THERE; strcpy(p, "Orin"); return device; }
cudaError_t cudaMalloc(void **p, size_t n) { WHEN_THERE; *p = aligned_alloc(256, (n + 255) / 256 * 256); return 0; }
cudaError_t cudaMallocHost(void **p, size_t n) { return cudaMalloc(p, n); }
cudaError_t cudaFree(void *p) { WHEN_THERE; free(p); return 0; }
cudaError_t cudaFreeHost(void *p) { return cudaFree(p); }
cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags) {
    WHEN_THERE; *s = malloc(1); return flags == 1 ? 0 : 1; }
cudaError_t cudaStreamDestroy(cudaStream_t s) { return cudaFree(s); }
cudaError_t cudaStreamSynchronize(cudaStream_t s) { WHEN_THERE; return s ? 0 : 400; }
cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, int kind, cudaStream_t s) {
    WHEN_THERE; memcpy(to, from, n); return s && (kind == 1 || kind == 2) ? 0 : 1; }
cudaError_t cudaStreamBeginCapture(cudaStream_t s, int mode) { WHEN_THERE; return s && mode == 1 ? 0 : 1; }
cudaError_t cudaStreamEndCapture(cudaStream_t s, cudaGraph_t *g) { WHEN_THERE; *g = malloc(1); return s ? 0 : 1; }
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *e, cudaGraph_t g, unsigned long long flags) {
    WHEN_THERE; *e = malloc(1); return g && !flags ? 0 : 1; }
cudaError_t cudaGraphDestroy(cudaGraph_t g) { return cudaFree(g); }
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t e) { return cudaFree(e); }
cudaError_t cudaGraphLaunch(cudaGraphExec_t e, cudaStream_t s) { WHEN_THERE; launches++; return e && s ? 0 : 1; }
"""


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler is here to make a libcudart of host memory")
    folder = tmp_path_factory.mktemp("cudart")
    (folder / "cudart.c").write_text(SOURCE)
    made = folder / "libcudart.so"
    # Bound to itself: torch may have brought a real libcudart into this process.
    flags = ["-shared", "-fPIC", "-Wall", "-Werror", "-Wl,-Bsymbolic"]
    subprocess.run([compiler, *flags, "-o", made, folder / "cudart.c"], check=True)
    return ctypes.CDLL(str(made))


@pytest.fixture(params=["library", "bindings"])
def cuda(request: pytest.FixtureRequest) -> Cuda:
    return Cuda(Library(request.getfixturevalue("library")) if request.param == "library" else Bindings(make_cudart()))


def test_the_device_is_described(cuda: Cuda) -> None:
    found = cuda.device()
    assert (found.name, found.compute_capability, found.processors) == ("Orin", "8.7", 8)
    assert found.runtime_version == 12060
    assert found.driver_version in {12060, 12061}


def test_bytes_come_back_from_the_device(cuda: Cuda) -> None:
    stream, device, there, back = (
        cuda.make_stream(),
        cuda.allocate(64),
        cuda.allocate_pinned(64),
        cuda.allocate_pinned(64),
    )
    assert device % 256 == 0
    sent, found = (np.ctypeslib.as_array((ctypes.c_ubyte * 64).from_address(each)) for each in (there, back))
    sent[:], found[:] = range(64), 0
    cuda.copy_in(device, there, 64, stream)
    cuda.copy_out(back, device, 64, stream)
    cuda.synchronize(stream)
    np.testing.assert_array_equal(found, sent)
    cuda.free(device)
    for each in (there, back):
        cuda.free_pinned(each)
    cuda.end_stream(stream)


def test_what_was_captured_is_launched(cuda: Cuda) -> None:
    stream, device, there = cuda.make_stream(), cuda.allocate(8), cuda.allocate_pinned(8)
    cuda.begin_capture(stream)
    cuda.copy_in(device, there, 8, stream)
    graph = cuda.end_capture(stream)
    for _ in range(3):
        cuda.launch(graph, stream)
    cuda.synchronize(stream)
    cuda.end_graph(graph)
    cuda.free(device)
    cuda.free_pinned(there)
    cuda.end_stream(stream)


def test_a_lost_device_is_an_error_with_the_function_and_the_status(library: ctypes.CDLL) -> None:
    cuda = Cuda(Library(library))
    stream = cuda.make_stream()
    library.lose(1)
    try:
        with pytest.raises(DeviceLostError, match=r"cudaStreamSynchronize gives CUDA error 46 \(another process holds"):
            cuda.synchronize(stream)
    finally:
        library.lose(0)
    cuda.end_stream(stream)


def test_every_function_is_known_to_both(library: ctypes.CDLL) -> None:
    for name in SIGNATURES:
        assert getattr(library, name) and getattr(make_cudart(), name)


def test_the_library_serves_where_the_bindings_find_no_device(
    library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = make_cudart()
    fake._state.gpu = False
    for name, module in {"cuda": object(), "cuda.bindings": _Package(fake), "cuda.bindings.runtime": fake}.items():
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setattr(cudart, "PLACES", (str(Path(library._name).parent / "libcudart.so*"),))
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    assert isinstance(open_cuda()._calls, Library)
    monkeypatch.setattr(cudart, "PLACES", ())
    with pytest.raises(MissingError, match=r"no GPU can be used here \(bindings: the GPU does not answer: cuda"):
        open_cuda()


class _Package:
    def __init__(self, runtime: Any) -> None:
        self.runtime = runtime


def test_a_machine_with_neither_is_told_what_brings_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    monkeypatch.setattr(cudart, "PLACES", ())
    monkeypatch.setattr("ctypes.util.find_library", lambda name: None)
    with pytest.raises(MissingError, match=r"no CUDA runtime is installed.* pip install 'edgetl\[tensorrt\]'"):
        open_cuda()
