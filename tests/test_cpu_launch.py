"""Launches on the CPU: every program runs once, on as many threads as are asked for, and Python goes on meanwhile."""

import threading

import numpy as np
import pytest
import triton
import triton.language as tl
from cpu_kernels import checked_too, memory, run
from tstn_cpu import compiled, launch, rows_of_unit


@triton.jit
def count_kernel(counts, order, ticket, sizes):
    pid = tl.program_id(0)
    tl.atomic_add(counts + pid, 1)
    tl.store(order + pid, tl.atomic_add(ticket, 1))
    tl.store(sizes + pid, tl.num_programs(0) + 1000 * tl.program_id(1) + 100 * (tl.num_programs(2) - 1))


@checked_too
@pytest.mark.parametrize("many", [1, 2, 5])
def test_every_program_runs_once(many, checked):
    """In units of some rows of a column, whose programs follow each other."""
    for columns in (1, 2, 3, 7):
        for all_rows in (0, 1, 2, 5, 16, 33):
            for rows in (None, 1, 2, 5, 16, 1000):
                programs = columns * all_rows
                counts, order, sizes = (np.full(programs + 2, start, np.int32) for start in (0, -1, -1))
                ticket = np.zeros(1, np.int32)
                how = {"many": many, "columns": columns, "rows": rows}
                run(count_kernel, counts, order, ticket, sizes, programs=programs, checked=checked, how=how)
                assert counts.tolist() == [1] * programs + [0, 0], how
                assert sizes.tolist() == [programs] * programs + [-1, -1], how
                assert sorted(order[:programs]) == list(range(programs)), how
                unit = rows or rows_of_unit(all_rows, columns, many)
                for column in order[:programs].reshape(all_rows, columns).T:
                    for first in range(0, all_rows, unit):
                        assert (np.diff(column[first : first + unit]) > 0).all(), how


def test_programs_that_are_no_whole_rows_are_an_error():
    counts = np.zeros(8, np.int32)
    with pytest.raises(ValueError, match="7 programs are no whole rows of 2"):
        run(count_kernel, counts, counts, counts, counts, programs=7, how={"columns": 2})
    assert not counts.any()


@triton.jit
def sums_kernel(x, o, n, B: tl.constexpr):
    pid, i = tl.program_id(0), tl.arange(0, B)
    total = tl.zeros([B], tl.float32)
    for k in range(n):
        total += tl.sin(tl.load(x + pid * B + (i + k) % B)) * k
    tl.store(o + pid * B + i, total)
    tl.atomic_add(o + tl.num_programs(0) * B + (pid % 4) * B + i, total)


@checked_too
def test_many_threads_do_what_one_does(checked):
    """To the last bit: where a column belongs to one thread, the order of its sums is always the same."""
    programs, block = 64, 8
    x = np.random.default_rng(1).standard_normal((programs, block)).astype(np.float32)
    results = []
    for many in (1, 2, 3, 8):
        o = np.zeros((programs + 4, block), np.float32)
        how = {"many": many, "columns": 4, "rows": programs, "exclusive": True}
        run(sums_kernel, x, o, 20, B=block, programs=programs, checked=checked, how=how)
        results.append(o)
    for o in results[1:]:
        np.testing.assert_array_equal(o, results[0])
    np.testing.assert_allclose(results[0][-1], results[0][3:programs:4].sum(0), rtol=1e-4, atol=1e-4)


@triton.jit
def meeting_kernel(flags, seen, many):
    pid = tl.program_id(0)
    tl.atomic_xchg(flags + pid, 1)
    # Until all others are there, or for long.
    found = tl.atomic_add(flags + many, 0)
    for _ in range(4000):
        if found < many:
            for _ in range(5000):
                tl.atomic_add(flags + many + 1, 0)
            found = 0
            for other in range(many):
                found += tl.atomic_add(flags + other, 0)
    tl.store(seen + pid, found)


def test_threads_run_at_the_same_time():
    """Programs that wait for each other see each other."""
    flags, seen = np.zeros(4, np.int32), np.zeros(2, np.int32)
    run(meeting_kernel, flags, seen, 2, programs=2, how={"many": 2, "rows": 1})
    assert (seen == 2).all()


def test_python_goes_on_while_a_kernel_runs():
    """A program waits for what Python does in the meantime."""
    flags, seen = np.zeros(4, np.int32), np.zeros(2, np.int32)

    def answer():
        while not flags[0]:
            pass
        flags[1] = 1

    run(meeting_kernel, flags, seen, 2, programs=0)
    thread = threading.Thread(target=answer)
    thread.start()
    run(meeting_kernel, flags, seen, 2, programs=1)
    thread.join()
    assert seen[0] == 2


def test_launches_from_several_threads():
    """Which compile, load and run at the same time."""
    results = [np.zeros((12, 8), np.float32) for _ in range(4)]
    x = np.random.default_rng(2).standard_normal((8, 8)).astype(np.float32)
    errors = []

    def work(o, turns):
        try:
            for _ in range(5):
                o[:] = 0
                how = {"many": 2, "columns": 4, "rows": 8, "exclusive": True}
                run(sums_kernel, x, o, turns, B=8, programs=8, how=how)
        except Exception as error:
            errors.append(error)

    threads = [threading.Thread(target=work, args=(o, 7)) for o in results]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not errors
    for o in results:
        np.testing.assert_array_equal(o, results[0])
    assert results[0].any()


@triton.jit
def scale_kernel(x, o, factor, shift, flag, n, B: tl.constexpr):
    i = tl.arange(0, B)
    value = tl.load(x + i, mask=i < n) * factor + shift
    tl.store(o + i, tl.where(flag, value, 0.0), mask=i < n)


def test_one_compilation_serves_many_calls():
    """With other memory, and other numbers in a template of its own."""
    x, o = np.ones(8, np.float32), np.zeros(8, np.float32)
    arguments = [memory(x), memory(o), 2.0, -1.5, True, 8]
    code = compiled(scale_kernel, arguments, {"B": 8}, leading=3)
    assert code.names == ("x", "o", "factor", "shift", "flag", "n")
    assert code.kinds == ("ptr", "ptr", "f32", "f32", "i1", "i32")
    names = dict(zip(code.names, arguments, strict=True))
    for shift, flag, n in ((-1.5, True, 8), (float("inf"), True, 3), (2.0, False, 8)):
        template = code.template(1, {**names, "shift": shift, "flag": flag, "n": n})
        for values, factor in ((np.arange(8, dtype=np.float32), 0.25), (x, -2.0)):
            o[:] = 7
            code.entry(template.buffer_info()[0], None, None, 1, 1, values.ctypes.data, o.ctypes.data, factor)
            expected = values * np.float32(factor) + shift if flag else np.zeros(8)
            np.testing.assert_array_equal(o, np.where(np.arange(8) < n, expected, 7))


@triton.jit
def kinds_kernel(o, a, b, c, d, e):
    tl.store(o, a)
    tl.store(o + 1, b)
    tl.store(o + 2, c)
    tl.store(o + 3, d)
    tl.store(o + 4, e)


@checked_too
@pytest.mark.parametrize(
    "numbers",
    [
        (0, 1, -1, 2**31 - 1, -(2**31)),
        (2**31, -(2**31) - 1, 2**53, -(2**53), 2**63 - 2**10),
        (0.5, float("-inf"), 1e-40, 3.0, -0.0),
        (True, False, 7, np.int64(9), np.float32(0.25)),
    ],
)
def test_numbers_as_arguments(numbers, checked):
    o = np.zeros(5)
    run(kinds_kernel, o, *numbers, checked=checked)
    np.testing.assert_array_equal(o, [float(np.float32(v)) if isinstance(v, float) else float(v) for v in numbers])


@triton.jit(do_not_specialize=["n"])
def told_kernel(o, n, m: tl.int64, s: tl.float64, h: tl.float16, b: tl.bfloat16, u: tl.uint8, w):
    tl.store(o, (n << 31).to(tl.float64))
    tl.store(o + 1, (m << 40).to(tl.float64))
    tl.store(o + 2, s)
    tl.store(o + 3, h)
    tl.store(o + 4, b)
    tl.store(o + 5, u)
    tl.store(o + 6, w)


@checked_too
def test_arguments_whose_type_is_told(checked):
    o = np.zeros(7)
    run(told_kernel, o, 1, 1, 0.1, -1 / 3, 0.25, 200, 2**64 - 2**12, checked=checked)
    assert o.tolist() == [-(2.0**31), 2.0**40, 0.1, np.float16(-1 / 3), 0.25, 200, 2.0**64 - 2**12]


def test_what_is_no_argument():
    o = np.zeros(5)
    with pytest.raises(TypeError, match="b must be memory or a number; got str"):
        run(kinds_kernel, o, 2, "2", 2, 2, 2)


def test_nothing_to_run():
    o = np.zeros(0, np.int32)
    launch(count_kernel, 0, [memory(o)] * 4, {}, many=3)
    launch(count_kernel, 0, [memory(o)] * 4, {}, checked=True)
