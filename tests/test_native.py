"""The kernels on a CPU: threads, bits, compilations and checks."""

from __future__ import annotations

import gc
import importlib.util
import multiprocessing
import os
import random
import re
import subprocess
import sys
import threading
import weakref
from pathlib import Path
from types import ModuleType

import cases
import pytest
import torch
import tstn_cpu
import tstn_kernels
from cases import Case

import tstn
from tstn import _native, _plan
from tstn._backend import INTERPRETED

pytestmark = pytest.mark.skipif(INTERPRETED or tstn_cpu.why_not() is not None, reason="not compiled for this CPU")
ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def _on_the_kernels():
    threads = torch.get_num_threads()
    with tstn.backend("triton"):
        yield
    torch.set_num_threads(threads)


@pytest.fixture
def many_threads():
    """More threads than cores, and launches that are never too small for them."""
    torch.set_num_threads(4)
    least = _native.LEAST_PER_THREAD
    _native.LEAST_PER_THREAD = 1
    _plan.forget()
    yield
    _native.LEAST_PER_THREAD = least
    _plan.forget()


# Of every way to sum: pairs, one image for all, views, an index; matrices, splines in company, fields, bicubic taps.
SUMS = [
    Case(transform="affine", batching="paired", batch=4, channels=5),
    Case(transform="affine", batching="shared", views=5, channels=3, mode="bicubic"),
    Case(transform="affine", batching="views", views=3, padding_mode="border", layout="channels_last", channels=7),
    Case(transform="projective", batching="indexed", views=3, padding_mode="reflection"),
    Case(transform="grid", batching="views", views=2, dtype=torch.float16, channels=6),
    Case(transform="spline_lattice", batching="paired", batch=4, views=3, fill="tensor"),
    Case(transform="spline_lattice", batching="views", batch=3, views=3),
    Case(transform="affine", flow="contiguous", batching="shared", views=4, dtype=torch.bfloat16),
    Case(transform="lens", batching="indexed", batch=3, views=4, channels=1),
]


@pytest.mark.parametrize("case", SUMS, ids=lambda case: f"{case.transform}-{case.batching}-{case.mode}")
def test_many_threads_agree_with_the_oracle_and_repeat(case: Case, many_threads: None) -> None:
    """Without asking for deterministic algorithms."""
    case = Case(**{**case.__dict__, "input_size": (13, 17), "size": (19, 23)})
    cases.check(case)
    call = cases.Call(case, "cpu")
    grad = torch.randn(call.output().shape, generator=torch.Generator().manual_seed(2)).to(case.dtype)
    results = []
    for _ in range(10):
        output = call.output()
        results.append([output.detach(), *call.gradients(output, grad).values()])
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


def test_without_checks_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other tests run in checked mode, whose code is another."""
    monkeypatch.setattr(_native, "CHECKED", False)
    rng = random.Random(11)
    for _ in range(6):
        cases.check(cases.draw(rng))


def _step(x: torch.Tensor, theta: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(tstn.spatial_transform(x, theta).sum(), x)[0]


def test_threads_of_python_may_call_at_once(many_threads: None) -> None:
    x = torch.rand(8, 3, 40, 50, requires_grad=True)
    theta = torch.eye(2, 3).repeat(8, 1, 1) * 0.9
    expected, found = _step(x, theta), []
    workers = [threading.Thread(target=lambda: found.append(_step(x, theta))) for _ in range(6)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(found) == 6
    assert all(torch.equal(result, expected) for result in found)


def _in_a_process(connection, method: str) -> None:
    # Few elements: PyTorch's own operators would wait for threads that a fork leaves behind.
    torch.set_num_threads(2)
    connection.send([result.numpy() for result in _results(method)])


def _results(method: str) -> list[torch.Tensor]:
    """In a process that began in some way. Where PyTorch is built for GPUs a forked one has no backward pass at all."""
    x = torch.rand(4, 1, 32, 32, generator=torch.Generator().manual_seed(0), requires_grad=True)
    theta = torch.eye(2, 3).repeat(4, 1, 1) * 0.8
    results = [tstn.spatial_transform(x, theta).detach()]
    built_for_gpus = torch.version.cuda is not None or torch.version.hip is not None
    return results if method == "fork" and built_for_gpus else [*results, _step(x, theta)]


@pytest.mark.parametrize("method", ["fork", "spawn"])
# Python 3.12 warns of any fork beside threads.
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_processes(method: str, many_threads: None) -> None:
    """After this process has had threads of its own, which a fork leaves behind."""
    expected = _results(method)
    _step(torch.rand(4, 1, 32, 32, requires_grad=True), torch.eye(2, 3).repeat(4, 1, 1))
    context = multiprocessing.get_context(method)
    receiver, sender = context.Pipe(False)
    process = context.Process(target=_in_a_process, args=(sender, method))
    process.start()
    assert receiver.poll(120)
    torch.testing.assert_close([torch.from_numpy(result) for result in receiver.recv()], expected)
    process.join()
    assert process.exitcode == 0


class _Warped(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return 6

    def __getitem__(self, i: int) -> torch.Tensor:
        x = torch.full((1, 3, 32, 32), float(i))
        return tstn.spatial_transform(x, torch.eye(2, 3)[None])[0]


@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_workers_of_a_data_loader() -> None:
    batches = list(torch.utils.data.DataLoader(_Warped(), batch_size=3, num_workers=2))
    assert torch.equal(torch.cat(batches)[:, 0, 0, 0], torch.arange(6.0))


SHAPES = """
import random, sys, warnings
import torch, tstn
from tstn_cpu import cache
rng = random.Random(0)
for _ in range(40):
    n, c = rng.randint(1, 6), rng.choice((1, 3, 5, 8, 13))
    shape = (n, c, rng.randint(1, 70), rng.randint(1, 70))
    x = torch.rand(shape, requires_grad=True)
    theta = torch.eye(2, 3).repeat(n, 1, 1).requires_grad_()
    y = tstn.spatial_transform(x, theta, size=(rng.randint(1, 70), rng.randint(1, 70)))
    y.sum().backward()
print(cache.compilations)
"""


def test_compilations_do_not_depend_on_the_shape(tmp_path: Path) -> None:
    environment = {**os.environ, "TSTN_CPU_CACHE": str(tmp_path), "TSTN_CPU_CHECK": "0", "TSTN_BACKEND": "triton"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "kernels")])
    done = subprocess.run([sys.executable, "-c", SHAPES], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    compilations = dict(re.findall(r"'(\w+)': (\d+)", done.stdout))
    assert {"sample_forward_kernel", "sample_backward_kernel"} <= compilations.keys()
    assert max(map(int, compilations.values())) <= 5


def test_plans_do_not_hold_on_to_memory() -> None:
    """What is kept of a call is none of its tensors."""
    theta = torch.eye(2, 3)[None]
    x = torch.rand(1, 1, 9, 9)
    y = tstn.spatial_transform(x, theta)
    alive = [weakref.ref(tensor) for tensor in (x, theta, y)]
    del x, theta, y
    gc.collect()
    assert [ref() for ref in alive] == [None] * 3


def _changed(tmp_path: Path, name: str, old: str, new: str) -> ModuleType:
    """A copy of a module of kernels in which something is wrong."""
    assert tstn_kernels.__file__ is not None
    source = (Path(tstn_kernels.__file__).parent / f"{name}.py").read_text()
    assert source.count(old) >= 1
    path = tmp_path / f"wrong_{name}.py"
    path.write_text(source.replace(old, new))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


WRONG = {
    "load": (
        "forward",
        "mask = seen & in_tile\n",
        "mask = in_tile\n",
        "sample_forward_kernel",
        r"a load of input_ptr at byte -?\d+ is outside",
    ),
    "store": (
        "forward",
        "mask=in_tile & (c + channel < C) if PART_BLOCKS else in_tile)",
        "mask=in_tile | True)",
        "sample_forward_kernel",
        r"a store of output_ptr at byte \d+ is outside",
    ),
    "atomic": (
        "backward",
        "addend, mask=mask, sem",
        "addend, mask=real, sem",
        "sample_backward_kernel",
        r"an atomic fadd of grad_input_ptr at byte -?\d+ is outside",
    ),
}


@pytest.mark.skipif(not _native.CHECKED, reason="not in checked mode")
@pytest.mark.parametrize("kind", WRONG)
def test_a_wrong_mask_is_found(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name, old, new, kernel, message = WRONG[kind]
    module = _changed(tmp_path, name, old, new)
    monkeypatch.setattr(tstn_kernels, kernel, getattr(module, kernel))
    # Plans keep what was compiled for them.
    monkeypatch.setattr(_plan, "_calls", {})
    buffer = torch.full((3, 2, 7, 9), 5.0)
    x = buffer[1:2].clone().requires_grad_()
    theta = torch.tensor([[[1.5, 0.2, 0.3], [0.1, 1.4, -0.2]]])
    with pytest.raises(tstn_cpu.OutOfBoundsError, match=rf"{kernel}: {message} of the tensor \(line \d+ of .*wrong_"):
        tstn.spatial_transform(x, theta, size=(5, 6)).sum().backward()


def test_nothing_is_registered_with_triton() -> None:
    code = """
import triton
from triton.backends import backends
before = dict(backends)
import torch, tstn
y = tstn.spatial_transform(torch.rand(1, 1, 3, 3), torch.eye(2, 3)[None])
assert tstn.backend_for(y) == "triton"
assert backends == before
assert triton.runtime.driver._active is None
from triton.compiler import code_generator
assert code_generator.CodeGenerator.__module__ == "triton.compiler.code_generator"
"""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "kernels")])}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
