"""The thread in which transforms are built: nothing of the caller shows there, and Python gets along with it."""

from __future__ import annotations

import contextlib
import contextvars
import gc
import os
import subprocess
import sys
import threading
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx

from tstn._aside import aside
from tstn.custom import CustomTransform
from tstn.examples import lens_distortion, moebius, polar
from tstn.thin_plate import ThinPlateSpline

PREAMBLE = """
import atexit, os, signal, sys, threading, time, warnings
import torch
import tstn
from tstn._aside import aside

def make(k):
    def stretch(theta, x, y):
        return x * torch.exp(k * theta[0]), y
    return tstn.CustomTransform(stretch, (1,), [0.0]).kernel, tstn.ThinPlateSpline((3, 3), float(k)).points
"""


def run(code: str) -> list[str]:
    """What a program prints that ends well and says nothing else."""
    root = Path(__file__).parents[1]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join((str(root), str(root / "kernels")))}
    result = subprocess.run(
        [sys.executable, "-c", PREAMBLE + code], capture_output=True, text=True, timeout=120, env=environment
    )
    assert result.returncode == 0, result.stderr
    assert not result.stderr
    return result.stdout.split()


def test_many_transforms_from_many_threads() -> None:
    code = """
made = []
def some():
    made.extend(make(k) for k in range(5))
threads = [threading.Thread(target=some) for _ in range(4)]
for thread in threads: thread.start()
for thread in threads: thread.join()
print(len(made), len(set(made)), len({make(k) for k in range(5)} - set(made)))
"""
    assert run(code) == ["20", "5", "0"]


def test_threads_side_by_side_get_what_one_alone_gets() -> None:
    makers: list[Callable[[], CustomTransform | ThinPlateSpline]] = [
        lens_distortion,
        polar,
        moebius,
        lambda: ThinPlateSpline((3, 4), 0.25),
    ] * 5
    alone = [make().kernel for make in makers[:4]] * 5
    with ThreadPoolExecutor(8) as threads:
        assert [made.kernel for made in threads.map(lambda make: make(), makers)] == alone


def test_one_after_the_other() -> None:
    inside: list[int] = []
    most = 0

    def build() -> None:
        nonlocal most
        inside.append(1)
        most = max(most, len(inside))
        threading.Event().wait(0.01)
        inside.pop()

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: aside(build), range(16)))
    assert most == 1


def surroundings() -> tuple[object, ...]:
    made = torch.ones(2)
    return (
        torch.is_grad_enabled(),
        torch.is_inference_mode_enabled(),
        torch.is_autocast_enabled("cpu"),
        torch._C._functorch.maybe_get_level(torch.zeros(1)),
        torch._C._functorch.peek_interpreter_stack() is None,
        type(made),
        made.device,
        (made @ made).dtype,
        VARIABLE.get(),
    )


VARIABLE = contextvars.ContextVar("VARIABLE", default=0)


def test_nothing_of_the_caller_shows() -> None:
    expected = (True, False, False, -1, True, torch.Tensor, torch.device("cpu"), torch.float32, 0)
    seen = [aside(surroundings)]

    def look(t: torch.Tensor) -> torch.Tensor:
        seen.append(aside(surroundings))
        return t.sum()

    token = VARIABLE.set(1)
    for mode in (
        torch.no_grad(),
        torch.inference_mode(),
        torch.autocast("cpu", dtype=torch.bfloat16),
        torch.device("meta"),
        FakeTensorMode(),
    ):
        with mode:
            look(torch.ones(2))
    torch.func.vmap(torch.func.grad(look))(torch.ones(2, 2))
    make_fx(look)(torch.ones(2))
    VARIABLE.reset(token)
    assert seen == [expected] * 8


def test_nothing_of_an_earlier_call_shows() -> None:
    def careless(theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        VARIABLE.set(1)
        torch.set_grad_enabled(False)
        return x * theta[0], y

    expected = moebius()
    CustomTransform(careless, (1,), (1.0,))
    assert moebius()._code.sources == expected._code.sources
    assert aside(torch.is_grad_enabled)
    assert aside(VARIABLE.get) == 0


def test_what_is_built_builds_aside_in_its_turn() -> None:
    def outer() -> tuple[object, ...]:
        with torch.no_grad(), torch.device("meta"):
            return aside(lambda: aside(surroundings))

    assert aside(outer) == aside(surroundings)


def test_a_map_may_hold_a_spline_of_its_own() -> None:
    splines: list[ThinPlateSpline] = []

    def through_a_spline(theta: torch.Tensor, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        splines.append(ThinPlateSpline((2, 2), 0.125))
        points = splines[-1].constants(x.device).to(theta.dtype)
        return x + points[3, 0] * theta[0], y

    CustomTransform(through_a_spline, (1,), (0.0,))
    (constants,) = splines[0]._spline.on_device.values()
    assert all(type(constant) is torch.Tensor and not constant.requires_grad for constant in constants)


def test_errors_come_with_their_traceback() -> None:
    def fails() -> None:
        raise LookupError("as it is")

    with pytest.raises(LookupError, match="as it is") as caught:
        aside(fails)
    names = [frame.name for frame in traceback.extract_tb(caught.value.__traceback__)]
    assert names[0] == "test_errors_come_with_their_traceback"
    assert names[-1] == "fails"
    with pytest.raises(SystemExit):
        aside(sys.exit)
    assert aside(lambda: 3) == 3


@pytest.mark.parametrize("fails", [False, True])
def test_keeps_nothing(fails: bool) -> None:
    class Thing:
        pass

    def known(thing: Thing) -> weakref.ref[Thing]:
        def build() -> Thing:
            if fails:
                raise LookupError(thing)
            return thing

        with contextlib.suppress(LookupError):
            aside(build)
        return weakref.ref(thing)

    gc.disable()
    try:
        seen = known(Thing())
        aside(lambda: None)  # by when the first is over
        assert seen() is None
    finally:
        gc.enable()


def test_interrupted() -> None:
    code = """
signal.signal(signal.SIGINT, signal.default_int_handler)
begun = threading.Event()
def long():
    begun.set()
    time.sleep(2)
    print("done")
def interrupted(build):
    def interrupt():
        begun.wait()
        time.sleep(0.2)
        os.kill(os.getpid(), signal.SIGINT)
    threading.Thread(target=interrupt).start()
    try:
        aside(build)
    except KeyboardInterrupt:
        print("interrupted")
interrupted(long)
interrupted(lambda: print("what was given up before it began"))
print(len(make(3)))
"""
    assert run(code) == ["interrupted", "interrupted", "done", "2"]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_fork() -> None:
    # Splines, as PyTorch runs no backward pass in the child of a process that has run one and may have a GPU.
    code = """
warnings.simplefilter("ignore", DeprecationWarning)  # Python warns of a fork beside any thread
def in_child(function):
    sys.stdout.flush()
    child = os.fork()
    if not child:
        function()
        sys.stdout.flush()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
spline = lambda k: tstn.ThinPlateSpline((3, 3), float(k)).theta_shape[0]
in_child(lambda: print("first", len(make(0))))
spline(1)
in_child(lambda: (print("second", spline(2)), in_child(lambda: print("its_own", spline(3)))))

begun, lock = threading.Event(), threading.Lock()
def long():
    with lock:
        begun.set()
        time.sleep(0.5)
        in_child(lambda: print("within", spline(4)))
thread = threading.Thread(target=aside, args=(long,))
thread.start()
begun.wait()
in_child(lambda: (lock.acquire(), print("after", spline(5))))
thread.join()
print("parent", len(make(6)))
"""
    assert run(code) == ["first", "2", "second", "9", "its_own", "9", "within", "9", "after", "9", "parent", "2"]


@pytest.mark.parametrize("before", ["", "make(1)"], ids=["first then", "not first"])
def test_while_python_ends(before: str) -> None:
    code = f"""
{before}
def late():
    threading.main_thread().join()
    print(len(make(2)))
class Last:
    def __del__(self):
        print(aside(lambda: "last"))
last = Last()
if {bool(before)}:
    threading.Thread(target=late).start()
@atexit.register
def later():
    print(len(make(3)))
"""
    assert run(code) == ["2", "2", "last"][not before :]


def test_python_ends_after_what_is_being_built() -> None:
    """What has begun is finished, and what waits for its turn need not begin, however fast this machine is."""
    code = """
begun = threading.Event()
def long():
    print("begun")
    begun.set()
    for _ in range(10):
        time.sleep(0.05)
        torch.ones(3).sum()
    print("done")
for _ in range(3):
    threading.Thread(target=aside, args=(long,), daemon=True).start()
begun.wait()
"""
    lines = run(code)
    assert lines
    assert lines == ["begun", "done"] * (len(lines) // 2)
