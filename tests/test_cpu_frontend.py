"""Triton's front end goes through loops once, and what it writes is what it always writes."""

import itertools
import re
import threading

import pytest
import test_cpu_loops
import triton
import triton.language as tl
from triton.compiler import code_generator
from tstn_cpu import frontend
from tstn_cpu.specialize import Pointer, source


@triton.jit
def stepped(values, at, TURNS: tl.constexpr, TOTAL: tl.constexpr):
    for i in range(TURNS):
        first, second = values
        if TOTAL:
            values = first + at, second
        else:
            at = at
            values = first, second + i
    return values


@triton.jit
def deep_kernel(o, n, TURNS: tl.constexpr, TOTAL: tl.constexpr, MISSING: tl.constexpr):
    # Some of these change in every loop, some in an inner one, some only where a constexpr says so, some never.
    lanes = tl.arange(0, 4)
    here = o + lanes
    kept, changed, swapped = lanes, lanes * 2, lanes
    values = n, n * 2
    for i in range(n):
        if MISSING:
            kept = changed
        first = kept
        for j in tl.range(i, n, num_stages=2):
            values = stepped(values, j, TURNS, TOTAL)
            for _ in tl.static_range(2):
                for k in range(j, 0, -1):
                    if k > i:
                        changed += k
                    elif TOTAL:
                        here += 1
                first = first + kept
            swapped, changed = changed, swapped
            kept = kept
        for _ in range(2):
            kept = kept
        tl.store(here, first)
    while n > 0:
        for k in range(n):
            if TOTAL:
                kept = kept + k
        n -= 1
    first, second = values
    tl.store(o + lanes, kept + changed + swapped + first + second)


def both(kernel, *arguments, **constexprs):
    """What our generator and Triton's write, but for the names of values and for places in the source."""
    of = source(kernel, arguments, constexprs)
    return [plain(build(of)) for build in (frontend.ttir, frontend._ttir)]


def plain(text):
    text = re.sub(r'\s*loc\((#loc\d*|"\w+"\(#loc\d*\))\)', "", text.partition("\n} loc")[0].partition("module ")[2])
    names = {}
    numbers = itertools.count()

    def number(name):
        # Blocks beside each other may give the same name to different values.
        if name[2] or name[1] not in names:
            names[name[1]] = f"%{next(numbers)}"
        return names[name[1]] + name[2]

    return re.sub(r"(%[\w.]+)((?::\d+)? = |)", number, text)


@pytest.mark.parametrize("turns", [1, 3])
@pytest.mark.parametrize("total", [False, True])
@pytest.mark.parametrize("missing", [False, True])
def test_loops_within_loops(turns, total, missing):
    ours, usual = both(deep_kernel, Pointer("i32"), 9, TURNS=turns, TOTAL=total, MISSING=missing)
    assert ours == usual
    assert "scf.for" in ours


@pytest.mark.parametrize(
    ("kernel", "numbers"),
    [
        *(("scalars_kernel", numbers) for numbers in ((7, 8, 9), (2**40, 7, 9))),
        *(("wide_kernel", numbers) for numbers in ((7, 8, 9), (2**40, 7, 9))),
        ("counters_kernel", (2**40, 7)),
    ],
)
def test_bounds_of_32_and_of_64_bits(kernel, numbers):
    ours, usual = both(getattr(test_cpu_loops, kernel), Pointer("i64"), *numbers)
    assert ours == usual


@triton.jit
def other_type_kernel(o, n):
    value = n
    for i in range(n):
        for _ in range(i):
            value = value * 0.5
    tl.store(o, value)


@triton.jit
def other_shape_kernel(o, n):
    value = tl.arange(0, 4)
    for _ in range(n):
        value = tl.arange(0, 8)
    tl.store(o + tl.arange(0, 4), value)


@triton.jit
def from_nothing_kernel(o, n):
    value = None
    for _ in range(n):
        value = n
    tl.store(o, value)


@triton.jit
def from_constexpr_kernel(o, n):
    value: tl.constexpr = tl.constexpr(3)
    for _ in range(n):
        value = n
    tl.store(o, value)


@pytest.mark.parametrize("kernel", [other_type_kernel, other_shape_kernel, from_nothing_kernel, from_constexpr_kernel])
def test_what_a_loop_cannot_carry(kernel):
    of = source(kernel, [Pointer("i32"), 9], {})
    words = []
    for build in (frontend.ttir, frontend._ttir):
        with pytest.raises(triton.CompilationError) as error:
            build(of)
        while error.value.__cause__ is not None:
            error.value = error.value.__cause__
        words.append(str(error.value))
    assert words[0] == words[1]


def test_other_threads_keep_tritons_own(monkeypatch):
    class Usual:
        pass

    monkeypatch.setattr(code_generator, "CodeGenerator", Usual)
    found = []
    with frontend.quick_front_end():
        thread = threading.Thread(target=lambda: found.append(code_generator.CodeGenerator()))  # pyright: ignore[reportCallIssue]
        thread.start()
        thread.join()
    assert [type(generator) for generator in found] == [Usual]
    assert code_generator.CodeGenerator is Usual
