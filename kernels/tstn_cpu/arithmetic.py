"""Operations on lanes: each lane by itself."""

from __future__ import annotations

import operator
import struct
from collections.abc import Callable
from math import prod
from typing import TYPE_CHECKING

from tstn_cpu.ir import Operation
from tstn_cpu.values import (
    BYTES,
    FLOATS,
    HALVES,
    NO_STEPS,
    REGISTER,
    Shape,
    Steps,
    Tensor,
    broadcast_shapes,
    register,
    with_rank,
)

if TYPE_CHECKING:
    from tstn_cpu.lower import Lowering

# "contract" lets a product and a sum become a fused multiply-add, as on GPUs.
FLOAT_BINARY = {
    "arith.addf": "fadd contract",
    "arith.subf": "fsub contract",
    "arith.mulf": "fmul contract",
    "arith.divf": "fdiv contract",
    "arith.remf": "frem",
    "tt.precise_divf": "fdiv",
}
INTEGER_BINARY = {
    "arith.addi": "add",
    "arith.subi": "sub",
    "arith.muli": "mul",
    "arith.divsi": "sdiv",
    "arith.divui": "udiv",
    "arith.remsi": "srem",
    "arith.remui": "urem",
    "arith.shli": "shl",
    "arith.shrui": "lshr",
    "arith.shrsi": "ashr",
    "arith.andi": "and",
    "arith.ori": "or",
    "arith.xori": "xor",
}
DIVISIONS = ("arith.divsi", "arith.divui", "arith.remsi", "arith.remui")
SHIFTS = ("arith.shli", "arith.shrui", "arith.shrsi")
# Of Python's integers, where both are known.
FOLDED: dict[str, Callable[[int, int], int]] = {
    "arith.addi": operator.add,
    "arith.subi": operator.sub,
    "arith.muli": operator.mul,
}
# Of steps from 0 on, none of them negative, by a number that is known.
STEPPED = {
    "arith.divsi": operator.floordiv,
    "arith.divui": operator.floordiv,
    "arith.remsi": operator.mod,
    "arith.remui": operator.mod,
    "arith.andi": operator.and_,
    "arith.shrui": operator.rshift,
    "arith.shrsi": operator.rshift,
}
INTEGER_INTRINSICS = {
    "arith.minsi": "smin",
    "arith.maxsi": "smax",
    "arith.minui": "umin",
    "arith.maxui": "umax",
    "math.absi": "abs",
    "math.ctpop": "ctpop",
    "math.ctlz": "ctlz",
    "math.cttz": "cttz",
}
FLOAT_INTRINSICS = {
    "arith.minimumf": "minimum",
    "arith.maximumf": "maximum",
    "math.floor": "floor",
    "math.ceil": "ceil",
    "math.trunc": "trunc",
    "math.roundeven": "roundeven",
    "math.absf": "fabs",
    "math.fma": "fma",
    "math.sqrt": "sqrt",
    "tt.precise_sqrt": "sqrt",
    "math.exp": "exp",
    "math.exp2": "exp2",
    "math.log": "log",
    "math.log2": "log2",
    "math.log10": "log10",
    "math.sin": "sin",
    "math.cos": "cos",
    "math.powf": "pow",
}
# A number if their operand is one.
KEEP_NUMBERS = ("math.floor", "math.ceil", "math.absf", "math.trunc", "math.roundeven")
# The names of PyTorch's C library.
LIBRARY = {"math.erf": "erf", "math.tanh": "tanh", "math.log1p": "log1p", "math.expm1": "expm1"}
# Of libdevice's functions, by the operation of the same meaning.
INSTRUCTIONS = {
    "abs": "math.absf",
    "ceil": "math.ceil",
    "div_rn": "tt.precise_divf",
    "floor": "math.floor",
    "fma": "math.fma",
    "nearbyint": "math.roundeven",
    "rint": "math.roundeven",
    "rsqrt": "math.rsqrt",
    "rsqrt_rn": "math.rsqrt",
    "sqrt": "math.sqrt",
    "sqrt_rn": "math.sqrt",
    "trunc": "math.trunc",
}
CASTS = {
    "arith.extsi": "sext",
    "arith.extui": "zext",
    "arith.trunci": "trunc",
    "arith.sitofp": "sitofp",
    "arith.uitofp": "uitofp",
    "arith.fptosi": "fptosi",
    "arith.fptoui": "fptoui",
}


def common(lowering: Lowering, operands: list[Tensor]) -> tuple[Shape, Shape, list[str]]:
    """The operands' shape, what has to be stored of them, and their values in that shape."""
    shape = max((operand.shape for operand in operands), key=len)
    stored = broadcast_shapes(*(with_rank(lowering.stored(operand), len(shape)) for operand in operands))
    return shape, stored, [lowering.values(operand, stored) for operand in operands]


def elementwise(lowering: Lowering, operands: list[Tensor], element: str, instruction: str) -> Tensor:
    """One instruction on operands of one type."""
    shape, stored, refs = common(lowering, operands)
    kind = register(operands[0].element, prod(stored))
    return Tensor(element, shape, stored, lowering.once(f"{instruction} {kind} {', '.join(refs)}"))


def call(lowering: Lowering, name: str, operands: list[Tensor], extra: str = "", flags: str = "") -> Tensor:
    """One intrinsic on operands of one type."""
    shape, stored, refs = common(lowering, operands)
    element, count = operands[0].element, prod(stored)
    kind = register(element, count)
    suffix = (f"v{count}" if count > 1 else "") + element
    arguments = [(kind, ref) for ref in refs] + ([("i1", extra)] if extra else [])
    ref = lowering.intrinsic(f"llvm.{name}.{suffix}", kind, arguments, flags)
    return Tensor(element, shape, stored, ref)


def library_call(lowering: Lowering, name: str, operands: list[Tensor], element: str) -> Tensor:
    """A function of the C library, lane by lane."""
    shape, stored, refs = common(lowering, operands)
    count, kind, result_kind = prod(stored), REGISTER[operands[0].element], REGISTER[element]
    result = "poison"
    for lane in range(count):
        lanes = [
            ref if count == 1 else lowering.once(f"extractelement <{count} x {kind}> {ref}, i64 {lane}") for ref in refs
        ]
        value = lowering.intrinsic(name, result_kind, [(kind, ref) for ref in lanes])
        if count == 1:
            return Tensor(element, shape, stored, value)
        result = lowering.set(f"insertelement <{count} x {result_kind}> {result}, {result_kind} {value}, i64 {lane}")
    return Tensor(element, shape, stored, result)


def widened(lowering: Lowering, tensor: Tensor) -> Tensor:
    """A half type as float32, exactly."""
    if tensor.element not in HALVES:
        return tensor
    count = prod(tensor.stored)
    if tensor.element == "bf16":
        wide = lowering.once(f"zext {register('i16', count)} {tensor.ref} to {register('i32', count)}")
        bits = lowering.once(f"shl {register('i32', count)} {wide}, {lowering.splat('i32', '16', count)}")
        ref = lowering.once(f"bitcast {register('i32', count)} {bits} to {register('f32', count)}")
    else:
        half = "half" if count == 1 else f"<{count} x half>"
        value = lowering.once(f"bitcast {register('i16', count)} {tensor.ref} to {half}")
        ref = lowering.once(f"fpext {half} {value} to {register('f32', count)}")
    return Tensor("f32", tensor.shape, tensor.stored, ref, number=tensor.number)


def narrowed(lowering: Lowering, tensor: Tensor, element: str) -> Tensor:
    """float32 or float64 rounded to a half type, to nearest and ties to even."""
    count = prod(tensor.stored)
    if tensor.element == "f64":
        tensor = _to_odd(lowering, tensor)
    if element == "f16":
        half = "half" if count == 1 else f"<{count} x half>"
        value = lowering.once(f"fptrunc {register('f32', count)} {tensor.ref} to {half}")
        ref = lowering.once(f"bitcast {half} {value} to {register('i16', count)}")
        return Tensor(element, tensor.shape, tensor.stored, ref)
    # By integers: hardware that can do it takes subnormal numbers for zero.
    kind = register("i32", count)

    def number(value: int) -> str:
        return lowering.splat("i32", str(value), count)

    bits = lowering.once(f"bitcast {register('f32', count)} {tensor.ref} to {kind}")
    high = lowering.once(f"lshr {kind} {bits}, {number(16)}")
    odd = lowering.once(f"and {kind} {high}, {number(1)}")
    bias = lowering.once(f"add {kind} {odd}, {number(0x7FFF)}")
    rounded = lowering.once(f"add {kind} {bits}, {bias}")
    if not tensor.number:
        nan = lowering.once(f"fcmp uno {register('f32', count)} {tensor.ref}, {tensor.ref}")
        quiet = lowering.once(f"or {kind} {bits}, {number(0x400000)}")
        rounded = lowering.once(f"select {register('i1', count)} {nan}, {kind} {quiet}, {kind} {rounded}")
    high = lowering.once(f"lshr {kind} {rounded}, {number(16)}")
    ref = lowering.once(f"trunc {kind} {high} to {register('i16', count)}")
    return Tensor(element, tensor.shape, tensor.stored, ref)


def _to_odd(lowering: Lowering, tensor: Tensor) -> Tensor:
    """float64 as float32 whose last bit is set where it is not exact: rounded again, that is rounding once."""
    count = prod(tensor.stored)
    narrow, wide, bits = register("f32", count), register("f64", count), register("i32", count)
    near = lowering.once(f"fptrunc {wide} {tensor.ref} to {narrow}")
    back = lowering.once(f"fpext {narrow} {near} to {wide}")
    inexact = lowering.once(f"fcmp one {wide} {back}, {tensor.ref}")
    sizes = [
        lowering.intrinsic(f"llvm.fabs.{'' if count == 1 else f'v{count}'}f64", wide, [(wide, r)])
        for r in (back, tensor.ref)
    ]
    over = lowering.once(f"fcmp ogt {wide} {sizes[0]}, {sizes[1]}")
    pattern = lowering.once(f"bitcast {narrow} {near} to {bits}")
    less = lowering.once(f"sext {register('i1', count)} {over} to {bits}")
    odd = lowering.once(f"zext {register('i1', count)} {inexact} to {bits}")
    pattern = lowering.once(f"add {bits} {pattern}, {less}")
    pattern = lowering.once(f"or {bits} {pattern}, {odd}")
    return Tensor("f32", tensor.shape, tensor.stored, lowering.once(f"bitcast {bits} {pattern} to {narrow}"))


def cast_float(lowering: Lowering, tensor: Tensor, element: str) -> Tensor:
    """From one floating-point type to another."""
    tensor = lowering.whole(tensor)
    if tensor.element == element:
        return tensor
    if element in HALVES:
        return narrowed(lowering, widened(lowering, tensor), element)
    tensor = widened(lowering, tensor)
    if tensor.element == element:
        return tensor
    instruction = "fpext" if BYTES[element] > BYTES[tensor.element] else "fptrunc"
    count = prod(tensor.stored)
    ref = lowering.once(f"{instruction} {register(tensor.element, count)} {tensor.ref} to {register(element, count)}")
    return Tensor(element, tensor.shape, tensor.stored, ref, number=tensor.number)


def _toward_zero(lowering: Lowering, near: Tensor, exact: Tensor) -> Tensor:
    """The one below in size, where rounding to nearest has gone up."""
    back = cast_float(lowering, near, exact.element)
    sizes = [call(lowering, "fabs", [widened(lowering, tensor)]) for tensor in (back, exact)]
    over = elementwise(lowering, sizes, "i1", "fcmp ogt")
    count, kind = prod(near.stored), f"i{8 * BYTES[near.element]}"
    bits, less = register(kind, count), register("i1", count)
    pattern = lowering.once(f"bitcast {register(near.element, count)} {near.ref} to {bits}")
    change = lowering.once(f"sext {less} {lowering.values(over, near.stored)} to {bits}")
    pattern = lowering.once(f"add {bits} {pattern}, {change}")
    ref = lowering.once(f"bitcast {bits} {pattern} to {register(near.element, count)}")
    return Tensor(near.element, near.shape, near.stored, ref)


def _fewer_bits(lowering: Lowering, tensor: Tensor) -> Tensor:
    """Whole numbers of 64 bits with those below 2**12 as one, which float64 holds beside the rest: rounding to odd.

    Smaller numbers than 2**52 stay what they are.
    """
    tensor = lowering.whole(tensor)

    def number(value: int) -> Tensor:
        return Tensor("i64", (), (), str(value))

    def of(instruction: str, *operands: Tensor, element: str = "i64") -> Tensor:
        return elementwise(lowering, list(operands), element, instruction)

    inexact = of("icmp ne", of("and", tensor, number(4095)), number(0), element="i1")
    rounded = of("and", tensor, number(-4096))
    rounded = select(lowering, [inexact, of("or", rounded, number(2048)), rounded])
    small = of("icmp ult", of("add", tensor, number(2**52)), number(2**53), element="i1")
    return select(lowering, [small, tensor, rounded])


def floats(lowering: Lowering, op: Operation, operands: list[Tensor]) -> Tensor | None:
    """Arithmetic of floating-point numbers; half types by way of float32."""
    element = operands[0].element
    name = op.name
    if element in HALVES:
        wide = floats(lowering, op, [widened(lowering, operand) for operand in operands])
        return wide if wide is None or wide.element != "f32" else narrowed(lowering, wide, element)
    numbers = [operand.number for operand in operands]
    if name in FLOAT_BINARY:
        return elementwise(lowering, operands, element, FLOAT_BINARY[name])
    if name == "arith.negf":
        return elementwise(lowering, operands, element, "fneg")
    if name in ("arith.minnumf", "arith.maxnumf"):
        return _extreme(lowering, operands, "olt" if name == "arith.minnumf" else "ogt", name[6:12], numbers)
    if name == "tt.clampf":
        x, low, high = operands
        if "propagateNan = all" in op.text:
            return call(lowering, "minimum", [call(lowering, "maximum", [x, low]), high])
        above = _extreme(lowering, [x, low], "ogt", "maxnum", numbers[:2])
        return _extreme(lowering, [above, high], "olt", "minnum", [above.number, high.number])
    if name in FLOAT_INTRINSICS:
        result = call(lowering, FLOAT_INTRINSICS[name], operands)
        result.number = name in KEEP_NUMBERS and all(numbers)
        return result
    if name == "math.rsqrt":
        root = call(lowering, "sqrt", operands)
        one = Tensor(element, (), (), float_literal(element, 1.0))
        return elementwise(lowering, [one, root], element, "fdiv")
    if name in LIBRARY:
        return library_call(lowering, LIBRARY[name] + ("f" if element == "f32" else ""), operands, element)
    return None


def _extreme(lowering: Lowering, operands: list[Tensor], predicate: str, name: str, numbers: list[bool]) -> Tensor:
    """The smaller or larger of two; the other one where one is NaN."""
    x, y = operands
    if not any(numbers):
        return call(lowering, name, operands)
    # The one that a comparison with NaN leaves.
    if not numbers[1]:
        x, y = y, x
    shape, stored, (a, b) = common(lowering, [x, y])
    count = prod(stored)
    kind = register(x.element, count)
    less = lowering.once(f"fcmp {predicate} {kind} {a}, {b}")
    ref = lowering.once(f"select {register('i1', count)} {less}, {kind} {a}, {kind} {b}")
    return Tensor(x.element, shape, stored, ref, number=True)


def whole_numbers(lowering: Lowering, op: Operation, operands: list[Tensor]) -> Tensor | None:
    """Arithmetic of integers; what is known of steps stays known."""
    name, element = op.name, operands[0].element
    if name in INTEGER_BINARY:
        x, y = operands
        known = _stepped(lowering, name, x, y)
        if known is not None:
            return known
        if name in DIVISIONS:
            operands = [x, _safe_divisor(lowering, name, x, y)]
        if name == "arith.addi":
            return _sum(lowering, x, y)
        result = elementwise(lowering, operands, element, INTEGER_BINARY[name])
        return _frozen(lowering, result) if name in SHIFTS and y.constant is None else result
    if name in INTEGER_INTRINSICS:
        extra = {"math.absi": "false", "math.ctlz": "false", "math.cttz": "false"}.get(name, "")
        return call(lowering, INTEGER_INTRINSICS[name], operands, extra)
    if name in ("tt.mulhiui", "math.mulhiui", "arith.mulhiui"):
        return _high_half(lowering, operands)
    return None


def _sum(lowering: Lowering, x: Tensor, y: Tensor) -> Tensor:
    """Of which it is remembered what is the same in all lanes: it may go into an address."""
    total = elementwise(lowering, [x, y], x.element, "add")
    if x.element == "i64" and x.is_uniform != y.is_uniform:
        lowering.sums[total.ref] = (y.ref, x.ref) if x.is_uniform else (x.ref, y.ref)
    return total


def _safe_divisor(lowering: Lowering, name: str, x: Tensor, y: Tensor) -> Tensor:
    """1 in place of what a CPU traps at, in whatever lane: 0, and -1 where the quotient overflows."""
    is_signed = name in ("arith.divsi", "arith.remsi")
    if y.constant is not None and y.constant not in ((0, -1) if is_signed else (0,)):
        return y

    def equal(tensor: Tensor, number: int) -> Tensor:
        return elementwise(lowering, [tensor, Tensor(x.element, (), (), str(number))], "i1", "icmp eq")

    bad = equal(y, 0)
    if is_signed:
        least = equal(x, -(1 << (8 * BYTES[x.element] - 1)))
        bad = elementwise(lowering, [bad, elementwise(lowering, [equal(y, -1), least], "i1", "and")], "i1", "or")
    return select(lowering, [bad, Tensor(x.element, (), (), "1"), y])


def _frozen(lowering: Lowering, tensor: Tensor) -> Tensor:
    """Some number where there is none: of what has no meaning LLVM may draw conclusions, in other lanes too."""
    kind = register(tensor.element, prod(tensor.stored))
    return Tensor(tensor.element, tensor.shape, tensor.stored, lowering.once(f"freeze {kind} {tensor.ref}"))


def _stepped(lowering: Lowering, name: str, x: Tensor, y: Tensor) -> Tensor | None:
    a, b = x.constant, y.constant
    if a is not None and b is not None and name in FOLDED:
        shape = max(x.shape, y.shape, key=len)
        bits = 8 * BYTES[x.element]
        value = (FOLDED[name](a, b) + 2 ** (bits - 1)) % 2**bits - 2 ** (bits - 1)
        return Tensor(x.element, shape, with_rank((), len(shape)), str(value))
    shape = max(x.shape, y.shape, key=len)
    if name in ("arith.addi", "arith.subi") and b is not None and x.element != "i1":
        # Neighbours are known to be such.
        steps = NO_STEPS if x.steps is None else x.steps
        added = steps.with_rank(len(shape)).each(lambda step: step + (b if name == "arith.addi" else -b))
        return Tensor(x.element, shape, with_rank(x.stored, len(shape)), x.ref, added)
    if x.steps is None and y.steps is None:
        return None
    if name in ("arith.addi", "arith.subi"):
        plain = [Tensor(t.element, t.shape, t.stored, t.ref) for t in (x, y)]
        steps = [(NO_STEPS if t.steps is None else t.steps).with_rank(len(shape)) for t in (x, y)]
        if plain[1].ref == "0":
            value = plain[0]
        elif plain[0].ref == "0" and name == "arith.addi":
            value = plain[1]
        elif name == "arith.addi":
            value = _sum(lowering, *plain)
        else:
            value = elementwise(lowering, plain, x.element, INTEGER_BINARY[name])
        total = steps[0] + steps[1] if name == "arith.addi" else steps[0] - steps[1]
        return Tensor(x.element, shape, with_rank(value.stored, len(shape)), value.ref, total.of(x.element))
    if name == "arith.muli" and a is not None:
        x, y, a, b = y, x, b, a
    is_shift = name == "arith.shli" and b is not None and 0 <= b < 8 * BYTES[x.element]
    if (name == "arith.muli" or is_shift) and b is not None and x.steps is not None:
        factor = 1 << b if is_shift else b
        plain = Tensor(x.element, x.shape, x.stored, x.ref)
        by = Tensor(x.element, x.shape, with_rank((), len(shape)), str(factor))
        value = plain if x.ref == "0" else elementwise(lowering, [plain, by], x.element, "mul")
        steps = x.steps.each(lambda step: step * factor)
        return Tensor(x.element, shape, value.stored, value.ref, steps.of(x.element))
    if (
        name in STEPPED
        and b is not None
        and b > 0
        and x.ref == "0"
        and x.steps is not None
        and min(x.steps.values) >= 0
    ):
        function, known = STEPPED[name], b
        steps = x.steps.each(lambda step: function(step, known)).reduced
        return Tensor(x.element, shape, x.stored, "0", steps if steps else None)
    return None


def _high_half(lowering: Lowering, operands: list[Tensor]) -> Tensor:
    """Of the product of two unsigned integers."""
    shape, stored, refs = common(lowering, operands)
    count, bits = prod(stored), 8 * BYTES[operands[0].element]
    narrow = register(operands[0].element, count)
    wide = f"i{2 * bits}" if count == 1 else f"<{count} x i{2 * bits}>"
    a, b = (lowering.once(f"zext {narrow} {ref} to {wide}") for ref in refs)
    product = lowering.once(f"mul nuw {wide} {a}, {b}")
    shift = str(bits) if count == 1 else "<" + ", ".join([f"i{2 * bits} {bits}"] * count) + ">"
    high = lowering.once(f"lshr {wide} {product}, {shift}")
    return Tensor(operands[0].element, shape, stored, lowering.once(f"trunc {wide} {high} to {narrow}"))


def compare(lowering: Lowering, op: Operation, operands: list[Tensor]) -> Tensor:
    """A comparison, whose predicate has the name that LLVM has for it."""
    predicate = op.text.split()[0].rstrip(",")
    operands = [widened(lowering, operand) for operand in operands]
    return elementwise(lowering, operands, "i1", f"{op.name[9]}cmp {predicate}")


def select(lowering: Lowering, operands: list[Tensor]) -> Tensor:
    """One value or another."""
    condition, x, y = operands
    shape = max((operand.shape for operand in operands), key=len)
    same = condition.is_uniform and len(condition.shape) <= len(shape)
    shaped = (x, y) if same else operands
    stored = broadcast_shapes(*(with_rank(lowering.stored(operand), len(shape)) for operand in shaped))
    count = prod(stored)
    kind = register(x.element, count)
    chosen = "i1" if same else register("i1", count)
    condition_ref = condition.ref if same else lowering.values(condition, stored)
    a, b = lowering.values(x, stored), lowering.values(y, stored)
    ref = lowering.once(f"select {chosen} {condition_ref}, {kind} {a}, {kind} {b}")
    return Tensor(x.element, shape, stored, ref, number=x.number and y.number)


def convert(lowering: Lowering, op: Operation, tensor: Tensor, element: str) -> Tensor | None:
    """From one type to another."""
    name = op.name
    if name in ("arith.extf", "arith.truncf", "tt.fp_to_fp"):
        near = cast_float(lowering, tensor, element)
        return _toward_zero(lowering, near, tensor) if "rounding = rtz" in op.text else near
    if name in ("arith.bitcast", "tt.bitcast"):
        tensor = lowering.whole(tensor)
        if REGISTER[tensor.element] == REGISTER[element]:
            return Tensor(element, tensor.shape, tensor.stored, tensor.ref)
        count = prod(tensor.stored)
        ref = lowering.once(f"bitcast {register(tensor.element, count)} {tensor.ref} to {register(element, count)}")
        return Tensor(element, tensor.shape, tensor.stored, ref)
    if name not in CASTS:
        return None
    if element in HALVES:
        # Whole numbers by way of float64, which holds those of 32 bits.
        if tensor.element == "i64":
            tensor = _fewer_bits(lowering, tensor)
        wide = convert(lowering, op, tensor, "f64")
        return None if wide is None else narrowed(lowering, wide, element)
    tensor = widened(lowering, tensor)
    steps = _converted_steps(tensor, name, element)
    if steps is None:
        tensor = lowering.whole(tensor)
    count = prod(tensor.stored)
    if steps is not None and tensor.constant is None and tensor.ref.lstrip("-").isdigit():
        ref = tensor.ref
    else:
        ref = lowering.once(
            f"{CASTS[name]} {register(tensor.element, count)} {tensor.ref} to {register(element, count)}"
        )
        if name == "arith.extsi" and element == "i64" and tensor.element == "i32":
            lowering.narrow[ref] = tensor.ref
    result = Tensor(element, tensor.shape, tensor.stored, ref, steps, number=element in FLOATS)
    # Of numbers that an integer does not hold.
    return _frozen(lowering, result) if name in ("arith.fptosi", "arith.fptoui") else result


def _converted_steps(tensor: Tensor, name: str, element: str) -> Steps | None:
    """Steps that stay beside a number when it becomes wider or narrower; narrow numbers have none."""
    if tensor.steps is None:
        return None
    if name == "arith.extsi" and element == "i64" and tensor.steps.are_small:
        return tensor.steps
    return tensor.steps.of(element) if name == "arith.trunci" and element == "i32" else None


def float_literal(element: str, value: float) -> str:
    """As LLVM reads it; of half types the bit pattern. Triton writes numbers that the type has."""
    if element == "f64":
        return f"0x{struct.unpack('<Q', struct.pack('<d', value))[0]:016X}"
    if element == "f16":
        return str(struct.unpack("<H", struct.pack("<e", value))[0])
    bits = struct.unpack("<I", struct.pack("<f", value))[0]
    if element == "bf16":
        return str(bits >> 16)
    exact = struct.unpack("<f", struct.pack("<f", value))[0]
    return f"0x{struct.unpack('<Q', struct.pack('<d', exact))[0]:016X}"
