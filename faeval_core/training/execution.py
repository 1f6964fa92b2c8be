"""How steps are executed: the libraries that take their products, torch.compile, CUDA graphs."""

import ctypes
import gc
import statistics
import sys
import threading
import time
import warnings
from contextlib import contextmanager
from functools import cache

import torch
import torch.nn.functional as F

from .torch_private import compile_errors

RECORDING = threading.Lock()  # one graph at a time in a process
# steps before a step is recorded, in which kernels are loaded and libraries choose among theirs
EAGER = 3


def own_process() -> None:
    """Settings for a process that is faeval's own: a worker, a command, a kernel of the pipeline.

    For speed, freed memory is reused: given back, it costs the next step a page fault per 4 KiB.
    """
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "mallopt"):
        libc.mallopt(-1, 1 << 30)  # M_TRIM_THRESHOLD
        libc.mallopt(-3, 1 << 25)  # M_MMAP_THRESHOLD, at its largest


def flushes_denormals() -> bool:
    """Whether this thread counts numbers below 1e-38 as zero."""
    return not torch.full((), 1e-39, dtype=torch.float32).mul(1).item()


@contextmanager
def arithmetic():
    """The arithmetic of runs, in whosever process; what was set before is set again at the end.

    On CUDA, products keep float32, which cuDNN by default and cuBLAS on the word of the environment
    would round to TF32 (10 bits), and convolutions take the same algorithm each time. On CPUs,
    numbers below 1e-38 count as zero: units that have died leave such moments behind, which made
    the optimiser of one run take half of its step.
    """
    matmul, cudnn = torch.backends.cuda.matmul, torch.backends.cudnn
    before = matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, flushes_denormals()
    matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic = False, False, True
    torch.set_flush_denormal(True)
    try:
        yield
    finally:
        matmul.allow_tf32, cudnn.allow_tf32, cudnn.deterministic, flushed = before
        torch.set_flush_denormal(flushed)


@contextmanager
def threads(count):
    """This process on so many threads for each product."""
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def by_onednn(f):
    """f with its float32 products taken by oneDNN in place of MKL, and free to round their operands
    to bfloat16.
    """
    return torch.backends.mkldnn.flags(
        enabled=None, deterministic=None, allow_tf32=None, fp32_precision="bf16"
    )(f)


@cache
def onednn_rounds() -> bool:
    """Whether oneDNN makes use of that freedom on this CPU, found by trying: with AMX it does, with
    AVX-512 alone it does not.
    """
    fine, same = (
        torch.full((64, 64), 1 + 2**-12, dtype=torch.float32),
        torch.eye(64, dtype=torch.float32),
    )
    return not torch.equal(by_onednn(torch.mm)(fine, same), fine)


@cache
def bf16_slowdown() -> float:
    """Time of a product in bfloat16 over that in float32 on this CPU, by trying both: below 1 where
    it has instructions for it, ten where it has none.
    """
    x, w = torch.ones(128, 3072), torch.ones(256, 3072)

    def seconds(dtype):
        a, b = x.to(dtype), w.to(dtype)
        each = []
        for _ in range(7):
            started = time.perf_counter()
            F.linear(a, b)
            each.append(time.perf_counter() - started)
        return statistics.median(each)

    return seconds(torch.bfloat16) / seconds(torch.float32)


def takes_onednn(precision, device, fused) -> bool:
    """Whether the products of training go to oneDNN: to be rounded, which spares the tensors that
    autocast casts, or in a long
    run for its float32 kernels: on AMD, twice as fast as MKL's, but for some ten microseconds a
    call that small ones feel.
    """
    return device.type == "cpu" and (
        onednn_rounds() if precision == "bf16" else fused and not onednn_rounds()
    )


def compiled(f):
    """f by torch.compile; f itself, with a warning, where that fails (it needs a C++ compiler on
    CPUs).

    Its wrapper, too, is in C++, and leaves Python to the other threads while it runs.
    """
    found = torch.compile(f, dynamic=False, options={"cpp_wrapper": True})

    def call(*args):
        nonlocal found
        try:
            return found(*args)
        except compile_errors() as e:
            warnings.warn(
                f"torch.compile failed, so training goes on uncompiled ({first_line(e)})",
                stacklevel=2,
            )
            found = f
            return f(*args)

    return call


def first_line(error) -> str:
    """What an exception says, in its first line."""
    return next(iter(str(error).splitlines()), "")


def first_that_works(f, g, told):
    """f, or g from the first call on in which f fails and g does not, with a warning: `told` and
    the reason.
    """
    found = f

    def call(*args):
        nonlocal found
        if found is g:
            return g(*args)
        try:
            return f(*args)
        except torch.OutOfMemoryError:
            raise
        except Exception as e:
            reason = e
        result = g(*args)  # which fails where the fault is not in how f is executed
        found = g
        warnings.warn(f"{told} ({first_line(reason)})", stacklevel=2)
        return result

    return call


def recorded(f, inputs):
    """f as a CUDA graph: in one go it launches what f launched when it was recorded, on the memory
    that f used then.
    """
    buffers, graph = {k: v.clone() for k, v in inputs.items()}, torch.cuda.CUDAGraph()
    # an ensemble and its graph refer to each other, so that those of before may still hold their
    # memory
    gc.collect()
    with RECORDING, torch.cuda.device(next(iter(buffers.values())).device):
        with torch.cuda.graph(graph, stream=torch.cuda.Stream(), capture_error_mode="thread_local"):
            out = f(buffers)

    def replay(inputs):
        for k, v in inputs.items():
            buffers[k].copy_(v)
        graph.replay()
        return out.clone()

    return replay


def replayed(f, record=recorded):
    """f, which takes a dict of tensors and returns one, recorded after EAGER calls; f itself, with
    a warning, where that fails.

    f must find all else that it reads, and leave all that it changes, in tensors that stay where
    they are.
    """
    left, found = EAGER, f

    def call(inputs):
        nonlocal left, found
        left -= 1
        if left == -1:
            try:
                found = record(f, inputs)
            except RuntimeError as e:
                warnings.warn(
                    f"no CUDA graph of the step, so training goes on eagerly ({first_line(e)})",
                    stacklevel=2,
                )
        return found(inputs)

    return call
