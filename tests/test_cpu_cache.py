"""Compiled code on the disk: found by the next process, made anew where it is damaged, and no need."""

import os
import stat

import numpy as np
import pytest
import triton
import triton.language as tl
from cpu_kernels import checked_too, printed, python, run
from tstn_cpu import cache


@triton.jit
def scale_kernel(x, factor, B: tl.constexpr, SHIFT: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(x + i, tl.load(x + i) * factor + SHIFT)


def scale(factor=2.0, shift=1, kind="float32", **options):
    x = np.arange(8).astype(kind)
    run(scale_kernel, x, factor, B=8, SHIFT=shift, **options)
    np.testing.assert_array_equal(x, np.arange(8) * factor + shift)


def compiled():
    return cache.compilations.get("scale_kernel", 0)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty one that is used."""
    monkeypatch.setenv("TSTN_CPU_CACHE", str(tmp_path / "kept"))
    return tmp_path / "kept"


@checked_too
def test_code_is_kept(folder, checked):
    before = compiled()
    for _ in range(3):
        scale(checked=checked)
        scale(3.5, checked=checked)
    assert compiled() == before + 1
    assert [path.name.split("-")[0] for path in folder.iterdir()] == ["scale_kernel"]
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700


def test_what_differs_is_kept_apart(folder):
    before = compiled()
    variants = [{}, {"shift": 2}, {"factor": 3}, {"factor": 1}, {"kind": "float64"}, {"checked": True}]
    variants += [{"how": {"exclusive": True}}]
    for count, options in enumerate(variants, 1):
        for _ in range(2):
            scale(**options)
            assert compiled() == before + count
    assert len(list(folder.iterdir())) == len(variants)


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: b"",
        lambda content: content[:20],
        lambda content: content[:-1],
        lambda content: content + b"\0",
        lambda content: content[:100] + bytes([content[100] ^ 1]) + content[101:],
        lambda content: content[:-9] + bytes([content[-9] ^ 128]) + content[-8:],
        lambda content: bytes(32) + content[32:],
        lambda content: b"something else " * 100,
    ],
)
def test_a_damaged_entry_is_made_again(folder, damage):
    scale()
    (path,) = folder.iterdir()
    content = path.read_bytes()
    path.write_bytes(damage(content))
    before = compiled()
    scale()
    scale()
    assert compiled() == before + 1
    assert path.read_bytes() == content
    assert list(folder.iterdir()) == [path]


def test_an_entry_that_is_no_file(folder):
    scale()
    (path,) = folder.iterdir()
    path.unlink()
    path.mkdir()
    before = compiled()
    scale()
    scale()
    assert compiled() == before + 2
    assert list(folder.iterdir()) == [path]


@pytest.mark.parametrize("mode", [0o777, 0o770, 0o702])
def test_a_folder_that_others_can_write_to_is_not_used(folder, mode):
    scale()
    (path,) = folder.iterdir()
    other = folder.with_name(f"other{mode}")
    other.mkdir()
    (other / path.name).write_bytes(path.read_bytes())
    other.chmod(mode)
    before = compiled()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TSTN_CPU_CACHE", str(other))
        with pytest.warns(UserWarning, match="other users can write to .*other.*chmod go-w, or set TSTN_CPU_CACHE"):
            scale()
        scale()
    assert compiled() == before + 2
    assert len(list(other.iterdir())) == 1


def test_a_folder_of_somebody_else_is_not_used(folder, monkeypatch):
    folder.mkdir(mode=0o700)
    owner = os.getuid()
    monkeypatch.setattr(os, "getuid", lambda: owner + 1)
    with pytest.warns(UserWarning, match="other users can write to"):
        scale()
    assert not list(folder.iterdir())


def test_a_folder_that_cannot_be_made(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TSTN_CPU_CACHE", str(tmp_path / "file" / "folder"))
    before = compiled()
    with pytest.warns(UserWarning, match="compiled kernels are not kept: .*Not a directory"):
        scale()
    scale()
    assert compiled() == before + 2


@pytest.mark.parametrize("name", ["mkstemp", "fdopen", "replace"])
def test_a_disk_that_is_full_or_read_only(folder, monkeypatch, name):
    """Nothing is kept, and nothing half done is left."""

    def fail(*arguments, **options):
        raise OSError("no space left on device")

    monkeypatch.setattr(cache.tempfile if name == "mkstemp" else cache.os, name, fail)
    scale()
    monkeypatch.undo()
    assert not list(folder.iterdir())


def test_where_code_is_kept(tmp_path, monkeypatch):
    monkeypatch.setenv("TSTN_CPU_CACHE", "~/own")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    for name, place in (
        ("TSTN_CPU_CACHE", "home/own"),
        ("XDG_CACHE_HOME", "xdg/tstn/cpu"),
        ("HOME", "home/.cache/tstn/cpu"),
    ):
        assert cache.folder() == tmp_path / place
        before = compiled()
        scale()
        assert compiled() == before + 1
        assert len(list((tmp_path / place).iterdir())) == 1
        if name != "HOME":
            monkeypatch.delenv(name)


def test_without_a_home(monkeypatch):
    def fail():
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("TSTN_CPU_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(cache.Path, "home", fail)
    with pytest.warns(UserWarning, match="home directory"):
        scale()


COUNT = """
from tstn_cpu import cache
from cpu_kernel_alone import works
assert works(), works(8)
print(sorted(cache.compilations.items()))
"""


def test_the_next_process_compiles_nothing(tmp_path):
    kept = str(tmp_path / "kept")
    assert printed(python(tmp_path, COUNT, TSTN_CPU_CACHE=kept)).strip() == "[('add_kernel', 1)]"
    assert printed(python(tmp_path, COUNT, TSTN_CPU_CACHE=kept)).strip() == "[]"
    # Another kernel of that name, or what it depends on.
    module = tmp_path / "cpu_kernel_alone.py"
    module.write_text(module.read_text().replace("+ y, mask", "+ y * 1, mask"))
    assert printed(python(tmp_path, COUNT, TSTN_CPU_CACHE=kept)).strip() == "[('add_kernel', 1)]"


def test_processes_that_compile_the_same_at_once(tmp_path):
    kept = tmp_path / "kept"
    processes = [python(tmp_path, COUNT, TSTN_CPU_CACHE=str(kept)) for _ in range(3)]
    for process in processes:
        printed(process)
    assert [path.name.split("-")[0] for path in kept.iterdir()] == ["add_kernel"]
    assert printed(python(tmp_path, COUNT, TSTN_CPU_CACHE=str(kept))).strip() == "[]"


GLOBAL = """
import array, sys
import triton
import triton.language as tl
from tstn_cpu import Memory, cache, launch
import cpu_kernel_global
numbers = array.array("f", [0] * 4)
launch(cpu_kernel_global.fill_kernel, 1, [Memory(numbers.buffer_info()[0], "f32", (4,), (1,))], {"B": 4})
print(numbers[3], len(cache.compilations))
"""

FILL = """
import triton
import triton.language as tl
VALUE = tl.constexpr(%s)


@triton.jit
def value(i):
    return VALUE + i * %s


@triton.jit
def fill_kernel(x, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(x + i, value(i))
"""


def test_what_a_kernel_depends_on(tmp_path):
    """Constants of its module, and functions that it calls: with others it is another kernel."""
    for value, factor, expected in ((2, 10, "32.0 1"), (3, 10, "33.0 1"), (3, 20, "63.0 1"), (2, 10, "32.0 0")):
        (tmp_path / "cpu_kernel_global.py").write_text(FILL % (value, factor))
        options = {"TSTN_CPU_CACHE": str(tmp_path / "kept"), "PYTHONDONTWRITEBYTECODE": "1"}
        assert printed(python(tmp_path, GLOBAL, **options)).strip() == expected
