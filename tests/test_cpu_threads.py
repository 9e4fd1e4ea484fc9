"""Threads of a launch on the CPU, with and without an OpenMP library: after a fork, at the end, when interrupted."""

import ctypes
import importlib.util
from pathlib import Path

import numpy as np
import pytest
from cpu_kernels import printed, python
from tstn_cpu import threads


def openmp():
    """PyTorch's, by its path: no need to load all of PyTorch."""
    found = importlib.util.find_spec("torch")
    paths = list(Path(found.origin).parent.rglob("libgomp*.so*")) if found else []
    if not paths:
        pytest.skip("there is no OpenMP library beside PyTorch")
    return str(paths[0])


@pytest.fixture(params=["own", "openmp"])
def library(request):
    """The path of an OpenMP library, or nothing."""
    return openmp() if request.param == "openmp" else ""


HEAD = """
import ctypes, faulthandler, os, signal, sys
signal.alarm(100)
library = ctypes.CDLL(sys.argv[1]) if sys.argv[1] else None
from tstn_cpu import threads
from cpu_kernel_alone import works
def at(function):
    return ctypes.cast(function, ctypes.c_void_p).value
"""

FORK = """
assert works(many=3)
assert threads.team() == (at(library.GOMP_parallel) if library else None)
for _ in range(2):
    child = os.fork()
    if child == 0:
        faulthandler.dump_traceback_later(40, exit=True)
        assert threads.team() is None
        os._exit(0 if works(many=3) and works(8, many=3) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert works(many=3)
"""


def test_launches_after_a_fork(tmp_path, library):
    """Whose threads are not there in the child."""
    printed(python(tmp_path, HEAD + FORK, library))


POOLS = """
import multiprocessing
assert works(many=3)
for method in ("fork", "spawn"):
    with multiprocessing.get_context(method).Pool(2) as pool:
        assert pool.starmap_async(works, [(block, 3) for block in (1, 2, 4, 8)]).get(60) == [True] * 4
"""


def test_pools_of_processes(tmp_path, library):
    printed(python(tmp_path, HEAD + POOLS, library))


BUSY = """
import threading
stop = False
def compile_much():
    y = 2
    while not stop:
        works(4, 2, y)
        works(8, 1, y)
        y += 1
        import tstn_cpu.cache as cache
        for path in cache.folder().iterdir():
            path.unlink()
# All is imported before: Python itself waits for a thread that was importing.
assert works(16)
thread = threading.Thread(target=compile_much)
thread.start()
try:
    for _ in range(6):
        child = os.fork()
        if child == 0:
            faulthandler.dump_traceback_later(40, exit=True)
            os._exit(0 if works(2, many=2) else 1)
        assert os.waitpid(child, 0)[1] == 0
finally:
    stop = True
    thread.join()
"""


def test_forks_while_another_thread_compiles(tmp_path):
    """The child does not wait for a lock that nobody gives back."""
    printed(python(tmp_path, HEAD + BUSY, "", TSTN_CPU_CACHE=str(tmp_path / "kept")))


END = """
import atexit
atexit.register(lambda: print("done" if works(many=4) else ""))
assert works(many=2)
"""


def test_launches_when_python_ends(tmp_path, library):
    """Where it starts no more threads."""
    assert printed(python(tmp_path, HEAD + END, library)).strip() == "done"


LIMIT = """
import resource
assert works(many=2)
# No thread's stack fits in anymore.
with open("/proc/self/statm") as file:
    pages = int(file.read().split()[0])
limit = pages * resource.getpagesize() + (1 << 20)
resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
assert works(many=8)
"""


def test_threads_that_cannot_be_made(tmp_path):
    """What there is no thread for, the others do."""
    printed(python(tmp_path, HEAD + LIMIT, ""))


def test_a_library_that_is_loaded_is_found():
    library = openmp()
    loaded = ctypes.CDLL(library)
    assert any(Path(path) == Path(library).resolve() for path in threads._loaded_libraries())
    address = threads._openmp()
    assert address is not None
    # What is found runs a function on as many threads as it is asked for.
    seen = np.zeros(1, np.int64)

    @ctypes.CFUNCTYPE(None, ctypes.c_void_p)
    def count(data):
        assert data == seen.ctypes.data
        seen[0] += 1

    parallel = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint)(address)
    parallel(ctypes.cast(count, ctypes.c_void_p), seen.ctypes.data, 3, 0)
    assert seen[0] == 3
    del loaded
