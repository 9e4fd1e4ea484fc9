"""Compiled kernels in NumPy: run many programs at once, for the addresses that they touch.

A value of all programs is one array, programs first; where it is the same in all of them, or along an axis, that axis
has one entry.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tstn_cpu.ir import ACCESSES, SIZES, Kernel, Operation, Type

Array = NDArray[Any]

# A bfloat16 is computed in float32: no address depends on the difference.
DTYPES: dict[str, type[np.generic]] = {
    "i1": np.bool_,
    "i8": np.int8,
    "i16": np.int16,
    "i32": np.int32,
    "i64": np.int64,
    "f16": np.float16,
    "bf16": np.float32,
    "f32": np.float32,
    "f64": np.float64,
}


def _quotient(a: Array, b: Array) -> Array:
    """Rounded towards zero, as on the machine."""
    return (a - np.fmod(a, b)) // b


def _unsigned(function: Callable[..., Array]) -> Callable[..., Array]:
    def apply(a: Array, b: Array) -> Array:
        kind = np.dtype(f"u{a.dtype}") if a.dtype != np.bool_ else np.dtype(np.bool_)
        out = function(a.astype(kind), b.astype(kind))
        return out if out.dtype == np.bool_ else out.astype(a.dtype)

    return apply


def _high_product(a: Array, b: Array) -> Array:
    """The upper 32 bits of unsigned 32-bit products."""
    return ((a.astype(np.uint32).astype(np.uint64) * b.astype(np.uint32)) >> np.uint64(32)).astype(np.uint32).view("i4")


ELEMENTWISE: dict[str, Callable[..., Array]] = {
    "arith.addi": np.add,
    "arith.subi": np.subtract,
    "arith.muli": np.multiply,
    "arith.divsi": _quotient,
    "arith.remsi": np.fmod,
    "arith.divui": _unsigned(np.floor_divide),
    "arith.remui": _unsigned(np.fmod),
    "arith.andi": np.bitwise_and,
    "arith.ori": np.bitwise_or,
    "arith.xori": np.bitwise_xor,
    "arith.shli": np.left_shift,
    "arith.shrsi": np.right_shift,
    "arith.shrui": _unsigned(np.right_shift),
    "arith.maxsi": np.maximum,
    "arith.minsi": np.minimum,
    "arith.maxui": _unsigned(np.maximum),
    "arith.minui": _unsigned(np.minimum),
    "arith.addf": np.add,
    "arith.subf": np.subtract,
    "arith.mulf": np.multiply,
    "arith.divf": np.divide,
    "arith.remf": np.fmod,
    "arith.negf": np.negative,
    "arith.maxnumf": np.fmax,
    "arith.minnumf": np.fmin,
    "arith.maximumf": np.maximum,
    "arith.minimumf": np.minimum,
    "arith.select": np.where,
    "math.absf": np.abs,
    "math.absi": np.abs,
    "math.floor": np.floor,
    "math.ceil": np.ceil,
    "math.sqrt": np.sqrt,
    "math.rsqrt": lambda x: 1 / np.sqrt(x),
    "math.exp": np.exp,
    "math.exp2": np.exp2,
    "math.log": np.log,
    "math.log2": np.log2,
    "math.sin": np.sin,
    "math.cos": np.cos,
    "math.fma": lambda a, b, c: a * b + c,
    "tt.precise_divf": np.divide,
    "tt.precise_sqrt": np.sqrt,
    "tt.clampf": np.clip,
    "tt.mulhiui": _high_product,
    # Only the shape changes, and that is left to NumPy.
    "tt.broadcast": lambda x: x,
    "ttg.convert_layout": lambda x: x,
    # To shared memory and back.
    "ttg.local_alloc": lambda x: x,
    "ttg.local_load": lambda x: x,
    "tt.dot": lambda a, b, c: a @ b + c,
}
COMPARISONS: dict[str, Callable[..., Array]] = {
    "eq": np.equal,
    "ne": np.not_equal,
    **{f"s{name}": getattr(np, long) for name, long in (("lt", "less"), ("gt", "greater"))},
    "sle": np.less_equal,
    "sge": np.greater_equal,
    "ult": _unsigned(np.less),
    "ule": _unsigned(np.less_equal),
    "ugt": _unsigned(np.greater),
    "uge": _unsigned(np.greater_equal),
}
# Of floats, ordered; "u" for unordered is the opposite's opposite.
ORDERED: dict[str, Callable[..., Array]] = {
    "eq": np.equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lt": np.less,
    "le": np.less_equal,
    "ne": lambda a, b: (a < b) | (a > b),
    "rd": lambda a, b: (a == a) & (b == b),
}
OPPOSITES = {"eq": "ne", "ne": "eq", "gt": "le", "le": "gt", "ge": "lt", "lt": "ge", "no": "rd"}
CASTS = {"arith.sitofp", "arith.extf", "arith.truncf", "arith.fptosi", "arith.trunci"}
REDUCTIONS: dict[str, Any] = {
    "arith.addf": np.add,
    "arith.addi": np.add,
    "arith.maxsi": np.maximum,
    "arith.minsi": np.minimum,
    "arith.maxnumf": np.fmax,
    "arith.minnumf": np.fmin,
    "arith.maximumf": np.maximum,
    "arith.minimumf": np.minimum,
    "arith.ori": np.bitwise_or,
    "arith.andi": np.bitwise_and,
}
IGNORED = {"tt.return", "llvm.intr.assume", "tt.assert", "gpu.barrier"}


class Memory(ABC):
    """What programs see of memory. Addresses come as int64, programs first; masks say which are accessed."""

    # Which programs make the access at all, and are not in another branch; None: all.
    active: Array | None = None

    @abstractmethod
    def load(self, operation: Operation, address: Array, mask: Array, other: Array) -> Array:
        """The values; ``other`` where the mask is false."""

    @abstractmethod
    def store(self, operation: Operation, address: Array, mask: Array, value: Array) -> None:
        """Write values where the mask is true."""

    @abstractmethod
    def atomic(self, operation: Operation, address: Array, mask: Array, value: Array) -> Array:
        """Combine values with memory; return what was there."""


class Interpreter:
    """Runs programs of a kernel, all that are given at once."""

    def __init__(self, kernel: Kernel, memory: Memory, grid: int):
        self._kernel, self._memory, self._grid = kernel, memory, grid
        self._programs = np.zeros(0, np.int32)
        # Which programs are in the branch that runs; None: all.
        self._active: Array | None = None

    def run(self, programs: Sequence[int] | Array, arguments: Sequence[int | float]) -> None:
        """Run programs; arguments are numbers and addresses, in the order of the kernel's parameters.

        Raises:
            ValueError: If the arguments do not match the parameters.
            NotImplementedError: If the kernel has an operation that is unknown here.
        """
        if len(arguments) != len(self._kernel.parameters):
            raise ValueError(f"arguments must be {len(self._kernel.parameters)}; got {len(arguments)}")
        self._programs = np.asarray(programs, np.int32)
        values = {
            name: np.array([value], _dtype(kind))
            for (name, kind), value in zip(self._kernel.parameters.items(), arguments, strict=True)
        }
        with np.errstate(all="ignore"):
            self._block(self._kernel.body, values)

    def _block(self, block: list[Operation], values: dict[str, Array]) -> list[Array]:
        """Run operations; return what is yielded at the end."""
        for operation in block:
            operands = [values[name] for name in operation.operands]
            if operation.name == "scf.yield":
                return operands
            if operation.name not in IGNORED:
                results = self._results(operation, operands, values)
                values.update(zip(operation.results, results, strict=True))
        return []

    def _results(self, operation: Operation, operands: list[Array], values: dict[str, Array]) -> list[Array]:
        name = operation.name
        if name in ELEMENTWISE:
            return [ELEMENTWISE[name](*operands)]
        if name == "scf.for":
            return self._for(operation, operands, values)
        if name == "scf.if":
            return self._if(operation, operands[0], values)
        if name == "tt.reduce":
            return self._reduce(operation, operands)
        if name == "tt.split":
            return list(np.moveaxis(_full(operation, operands[0]), -1, 0))
        if name in ACCESSES:
            return self._access(operation, operands)
        return [self._shaped(operation, operands)]

    def _shaped(self, operation: Operation, operands: list[Array]) -> Array:
        """Operations whose result depends on its type or on attributes."""
        name, text, kind = operation.name, operation.text, operation.type
        if name == "arith.cmpi":
            return COMPARISONS[text.split()[0].rstrip(",")](*operands)
        if name == "arith.cmpf":
            return _compare_floats(text.split()[0].rstrip(","), *operands)
        if name == "tt.get_program_id":
            return self._programs
        if name == "tt.get_num_programs":
            return np.array([self._grid], np.int32)
        if name == "arith.constant" and text.strip() in ("true", "false"):
            return np.array([text.strip() == "true"])
        if name in ("tt.trans", "ttg.memdesc_trans"):
            order = [int(axis) + 1 for axis in re.findall(r"\d+", text.partition("array<i32")[2])]
            return operands[0].transpose(0, *order)
        if kind is None:
            raise NotImplementedError(f"{name} has a type that is unknown here: {text}")
        dtype = _dtype(kind)
        ones = (1,) * len(kind.shape)
        if name == "arith.constant":
            return np.full((1, *ones), _literal(text, dtype), dtype)
        if name == "tt.make_range":
            return np.arange(_attribute(text, "start"), _attribute(text, "end"), dtype=dtype)[None]
        if name == "tt.addptr":
            return operands[0] + operands[1].astype(np.int64) * SIZES[kind.element]
        if name == "tt.splat":
            return operands[0].reshape(-1, *ones)
        if name == "tt.expand_dims":
            return np.expand_dims(operands[0], _attribute(text, "axis") + 1)
        if name in CASTS:
            return (operands[0] & 1 if dtype == np.bool_ else operands[0]).astype(dtype)
        if name == "arith.extsi":
            wide = operands[0].astype(dtype)
            return np.negative(wide) if operands[0].dtype == np.bool_ else wide
        if name in ("arith.extui", "arith.uitofp"):
            wide = operands[0] if operands[0].dtype == np.bool_ else operands[0].view(f"u{operands[0].dtype}")
            return wide.astype(dtype)
        if name in ("tt.bitcast", "arith.bitcast", "tt.int_to_ptr", "tt.ptr_to_int"):
            return operands[0].view(dtype) if operands[0].dtype.itemsize == dtype.itemsize else operands[0]
        if name == "tt.reshape":
            return _full(operation, operands[0]).reshape(-1, *kind.shape)
        if name == "tt.join":
            return np.stack(np.broadcast_arrays(*operands), -1)
        raise NotImplementedError(f"no rule for {name} at {operation.place}")

    def _for(self, operation: Operation, operands: list[Array], values: dict[str, Array]) -> list[Array]:
        first, past, step, *carried = operands
        trips = np.maximum(-((first - past) // step), 0)
        outer = self._active
        for trip in range(int(trips.max(initial=0))):
            going = trips > trip
            if outer is not None:
                going = going & outer
            if not going.any():
                break
            self._active = None if going.all() else going
            values.update(zip(operation.inner, (first + trip * step, *carried), strict=True))
            after = self._block(operation.regions[0], values)
            carried = [_choose(self._active, new, old) for new, old in zip(after, carried, strict=True)]
        self._active = outer
        return carried

    def _if(self, operation: Operation, condition: Array, values: dict[str, Array]) -> list[Array]:
        outer = self._active
        branches: list[list[Array] | None] = [None, None]
        for i, taken in enumerate((condition, ~condition)[: len(operation.regions)]):
            within = taken if outer is None else taken & outer
            if within.any():
                self._active = None if within.all() else within
                branches[i] = self._block(operation.regions[i], values)
        self._active = outer
        then, otherwise = branches
        if then is None or otherwise is None:
            return then or otherwise or []
        return [_choose(condition, a, b) for a, b in zip(then, otherwise, strict=True)]

    def _reduce(self, operation: Operation, operands: list[Array]) -> list[Array]:
        inner = operation.regions[0]
        if len(operands) != 1 or len(inner) != 2 or inner[0].name not in REDUCTIONS:
            raise NotImplementedError(f"no rule for this reduction at {operation.place}")
        axis = _attribute(operation.text, "axis") + 1
        return [REDUCTIONS[inner[0].name].reduce(_full(operation, operands[0]), axis)]

    def _access(self, operation: Operation, operands: list[Array]) -> list[Array]:
        kind = ACCESSES[operation.name]
        optional = 1 if kind == "load" else 2
        mask = (
            operands[optional] if len(operands) > optional and operation.name != "tt.atomic_cas" else np.array([True])
        )
        self._memory.active = self._active
        if self._active is not None:
            mask = mask & self._active.reshape(-1, *(1,) * (mask.ndim - 1))
        if kind == "load":
            other = operands[2] if len(operands) > 2 else np.zeros(1, np.int8)
            return [self._memory.load(operation, operands[0], mask, other)]
        if kind == "store":
            self._memory.store(operation, operands[0], mask, operands[1])
            return []
        before = self._memory.atomic(operation, operands[0], mask, operands[1])
        return [before] if operation.results else []


def _dtype(kind: Type) -> np.dtype[Any]:
    """What holds values of a type: pointers are addresses."""
    return np.dtype(np.int64 if kind.pointer else DTYPES[kind.element])


def _full(operation: Operation, operand: Array) -> Array:
    """The first operand with all its elements."""
    assert operation.source is not None
    return np.broadcast_to(operand, (len(operand), *operation.source.shape))


def _choose(condition: Array | None, a: Array, b: Array) -> Array:
    """The first in the programs where the condition holds, else the second."""
    if condition is None:
        return a
    return np.where(condition.reshape(-1, *(1,) * (max(a.ndim, b.ndim) - 1)), a, b)


def _compare_floats(predicate: str, a: Array, b: Array) -> Array:
    if predicate[0] == "o":
        return ORDERED[predicate[1:]](a, b)
    return ~ORDERED[OPPOSITES[predicate[1:]]](a, b) if predicate != "une" else np.not_equal(a, b)


def _literal(text: str, dtype: np.dtype[Any]) -> Any:
    """The value of a constant, the same in all places."""
    value = text.strip().removeprefix("dense<").removesuffix(">")
    if value in ("true", "false"):
        return value == "true"
    if value.startswith("0x") and dtype.kind == "f":
        return np.array(int(value, 16), f"u{dtype.itemsize}").view(dtype)[()]
    return float(value) if dtype.kind == "f" else int(value)


def _attribute(text: str, name: str) -> int:
    found = re.search(rf"\b{name} = (-?\d+)", text)
    if found is None:
        raise ValueError(f"{text!r} has no {name}")
    return int(found[1])
