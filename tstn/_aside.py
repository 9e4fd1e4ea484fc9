"""Building what is kept, away from whatever surrounds the caller.

Grad mode, autocast, fake tensors, tracers, torch.func's transforms, the default device and the like belong to a thread.
What is built in a thread of its own is ordinary, whoever asks for it first.

That thread is one for the whole process, and never ends. Threads that build side by side take turns in it: torch.fx
cannot trace two functions at once. And with a CUDA build of PyTorch but no GPU, the first thread that enters a
FakeTensorMode, as make_fx does, owns what the whole process takes for its CUDA device from then on, and frees it when
it ends; the next fake tensor, or the end of the process, is a crash (c10::impl::ensureCUDADeviceGuardSet).
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context
from queue import SimpleQueue
from threading import Lock, RLock, Thread, current_thread, main_thread
from typing import Any, TypeVar

import torch

T = TypeVar("T")


def aside(build: Callable[[], T]) -> T:
    """What ``build`` returns, or raises, in a thread of its own, where one call comes after the other.

    What ``build`` itself wants built aside is built in a further thread, away from the first one's modes.
    """
    worker = _worker()
    if worker is None:
        with _turn():
            return build()
    future: Future[T] = Future()
    worker.jobs.put((future, build))
    try:
        return future.result()
    finally:
        # If this wait was interrupted, what has not begun need not begin.
        future.cancel()
        # An error's traceback leads here, and not on to the error.
        del future


class _Worker(Thread):
    """A thread that builds; a daemon, because Python ends without waiting for those."""

    def __init__(self) -> None:
        super().__init__(name="tstn-aside", daemon=True)
        self.turn = _turn()
        self.jobs: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()

    def run(self) -> None:
        while True:
            # In a function, so that nothing of a job stays behind in this frame.
            _work(self.turn, *self.jobs.get())


def _work(turn: AbstractContextManager[Any], future: Future[Any], build: Callable[[], Any]) -> None:
    with turn:
        if (_state.closed and turn is _state.busy) or not future.set_running_or_notify_cancel():
            return
        try:
            # Neither grad mode nor context variables that a job sets are there for the next.
            with torch.enable_grad():
                future.set_result(Context().run(build))
        except BaseException as error:
            future.set_exception(error)
            del future


class _State:
    """What this process has; a forked one starts anew."""

    def __init__(self) -> None:
        self.workers: dict[_Worker | None, _Worker] = {}
        """By the worker that asks; by None for all other threads."""
        self.starting = Lock()
        self.busy = RLock()
        """Held while something is built for another thread than a worker."""
        self.closed = False
        """Whether Python is ending."""


_state = _State()


def _worker() -> _Worker | None:
    """The thread that builds for this one, or None if Python is ending and starts no more."""
    asking = _this_worker()
    with _state.starting:
        if _state.closed and asking is None:
            return None
        worker = _state.workers.get(asking)
        if worker is None:
            worker = _Worker()
            try:
                worker.start()
            except RuntimeError:
                if current_thread() is main_thread() and not main_thread().is_alive():
                    return None
                raise
            _state.workers[asking] = worker
    return worker


def _this_worker() -> _Worker | None:
    thread = current_thread()
    return thread if isinstance(thread, _Worker) else None


def _turn() -> AbstractContextManager[Any]:
    """What is to be held for building on behalf of this thread; a worker's job is within the turn of who asked."""
    return _state.busy if _this_worker() is None else nullcontext()


@atexit.register
def _close() -> None:
    """Let what is being built be finished: a thread that works while Python ends is killed in the middle of it."""
    _state.closed = True
    with _state.busy:
        pass


def _before_fork() -> None:
    # Nor may a child inherit a half-built thing, and locks that nobody will let go.
    _turn().__enter__()


def _after_fork_in_parent() -> None:
    _turn().__exit__(None, None, None)


def _after_fork_in_child() -> None:
    global _state
    _state = _State()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork_in_parent, after_in_child=_after_fork_in_child)
