"""From a kernel in Triton's form to LLVM's text, for the vectors of a CPU.

A program becomes a function; a range of programs is one call. What the entry takes is described in ``launch.py``.
"""

from __future__ import annotations

import re
import struct
from dataclasses import dataclass, field, replace
from math import prod
from typing import NoReturn

from tstn_cpu import arithmetic, atomics, checks, control, memory, neighbours, schedule, shapes
from tstn_cpu.checks import Site
from tstn_cpu.emit import Emitter
from tstn_cpu.errors import UnsupportedOperationError
from tstn_cpu.host import Host
from tstn_cpu.ir import Kernel, Operation, Type
from tstn_cpu.values import BYTES, FLOATS, REGISTER, Pointer, Shape, Tensor, Value, integers

# A program is run by one thread, which waits for nobody.
NOTHING = ("tt.return", "tt.reduce.return", "scf.yield", "llvm.intr.assume", "tt.assert", "ttg.barrier", "gpu.barrier")


@dataclass
class Lowered:
    """LLVM's text, and what a launch has to know of it."""

    text: str
    # Of the kernel's parameters that are no constexprs, in order.
    names: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    # Accesses that are checked.
    sites: list[Site] = field(default_factory=list)


class Lowering(Emitter):
    """Of one kernel."""

    def __init__(self, kernel: Kernel, name: str, host: Host, *, exclusive: bool, checked: bool):
        super().__init__()
        self.kernel, self.kernel_name, self.host = kernel, name, host
        # Whether no two threads write to the same memory, by the launch's doing.
        self.exclusive = exclusive
        self.checked = checked
        self.environment: dict[str, Value] = {}
        self.sites: list[Site] = []
        self.used = _used(kernel.body)

    def lower(self) -> list[str]:
        """The body of a function of %program, %frame and the parameters."""
        for i, (name, kind) in enumerate(self.kernel.parameters.items()):
            if kind.pointer:
                self.environment[name] = Pointer(kind.element, (), f"%a{i}", origin=i)
            else:
                self.environment[name] = Tensor(kind.element, (), (), f"%a{i}")
        if self.checked:
            checks.begins(self)
        self.operations(self.kernel.body)
        self.line("ret i1 false")
        return self.lines

    def operations(self, operations: list[Operation]) -> None:
        for run in schedule.segments(operations):
            for ready in schedule.rounds(run):
                if ready[0].name in schedule.ACCESSES:
                    self._accesses(ready)
                else:
                    self.operation(ready[0])

    def _accesses(self, operations: list[Operation]) -> None:
        """Loads, or atomic operations, none of which waits for another."""
        accesses = []
        for op in operations:
            pointer, *others = (self.environment[name] for name in op.operands)
            tensors = [value for value in others if isinstance(value, Tensor)]
            if not isinstance(pointer, Pointer) or len(tensors) != len(others):
                self.refuse(op)
            first, second = [*tensors, None, None][:2]
            mask, value = (first, second) if op.name == "tt.load" else (second, first)
            access = neighbours.Access(self, op, pointer, mask, value)
            self.guard(op, pointer, mask, access.stored)
            accesses.append(access)
        if operations[0].name == "tt.load":
            neighbours.load_all(self, accesses)
        else:
            # Sums may come in any order, but not before or after what is no sum, or tells what was there before.
            together: list[neighbours.Access] = []
            for access in accesses:
                if neighbours.can_add_together(self, access):
                    together.append(access)
                    continue
                neighbours.add_all(self, together)
                together = []
                assert access.value is not None
                access.result = atomics.atomic(self, access.op, access.pointer, access.value, access.mask)
            neighbours.add_all(self, together)
        for access in accesses:
            if access.result is not None:
                self.environment[access.op.results[0]] = access.result

    def region_values(self, operations: list[Operation], end: str) -> list[Value]:
        """Lower a region; what it ends with."""
        last = next((op for op in operations if op.name == end), None)
        self.operations([op for op in operations if op is not last])
        return [] if last is None else [self.environment[name] for name in last.operands]

    def refuse(self, op: Operation, what: str | None = None) -> NoReturn:
        file, line = op.place or ("?", 0)
        raise UnsupportedOperationError(
            f"{self.kernel_name}: {what or op.name} cannot be run on a CPU (line {line} of {file})"
        )

    def tensor(self, name: str) -> Tensor:
        value = self.environment[name]
        assert isinstance(value, Tensor)
        return value

    def pointer(self, name: str) -> Pointer:
        value = self.environment[name]
        assert isinstance(value, Pointer)
        return value

    def scalar(self, name: str) -> Tensor:
        return self.whole(self.tensor(name))

    def guard(self, op: Operation, pointer: Pointer, mask: Tensor | None, stored: Shape) -> None:
        """In checked mode, leave the program before an access that is outside."""
        if not self.checked:
            return
        file, line = op.place or ("?", 0)
        kind = op.name.removeprefix("tt.")
        if kind == "atomic_rmw":
            kind = f"atomic {op.text.split()[0].rstrip(',')}"
        self.sites.append(Site(kind, file, line))
        checks.guard(self, pointer, mask, stored, len(self.sites) - 1)

    def operation(self, op: Operation) -> None:
        results = self._results(op)
        if results is None:
            self.refuse(op)
        elif results:
            self.environment.update(zip(op.results, results, strict=True))

    def _results(self, op: Operation) -> list[Value] | None:
        """What an operation yields; None if it is not known."""
        name = op.name
        if name in NOTHING:
            return []
        if name == "scf.for":
            return control.loop(self, op)
        if name == "scf.if":
            return control.branch(self, op)
        if name == "arith.constant":
            return [_constant(op)]
        operands = [self.environment[operand] for operand in op.operands if operand in self.environment]
        if len(operands) != len(op.operands):
            return None
        if name == "tt.reduce":
            return list(shapes.reduce(self, op, [self.tensor(operand) for operand in op.operands]))
        if name == "tt.store":
            return self._store(op, operands)
        if name == "tt.split":
            return list(shapes.split(self, self.tensor(op.operands[0])))
        result = self._pointer_result(op, operands) if any(isinstance(v, Pointer) for v in operands) else None
        if result is None:
            tensors = [value for value in operands if isinstance(value, Tensor)]
            result = self._tensor_result(op, tensors) if len(tensors) == len(operands) else None
        return None if result is None else [result]

    def _store(self, op: Operation, operands: list[Value]) -> list[Value]:
        pointer, value, mask = [*operands, None][:3]
        assert isinstance(pointer, Pointer)
        assert isinstance(value, Tensor)
        assert mask is None or isinstance(mask, Tensor)
        memory.store(self, op, pointer, value, mask)
        return []

    def _pointer_result(self, op: Operation, operands: list[Value]) -> Value | None:
        pointer = operands[0]
        if op.name == "arith.select":
            return self._chosen_pointer(op, operands)
        if not isinstance(pointer, Pointer):
            return None
        shape = () if op.type is None else op.type.shape
        if op.name == "tt.addptr":
            offset = operands[1]
            assert isinstance(offset, Tensor)
            return memory.add_pointer(self, pointer, offset)
        if op.name == "tt.splat":
            return shapes.splat(pointer, shape)
        if op.name == "tt.broadcast":
            return shapes.broadcast(pointer, shape)
        if op.name == "tt.expand_dims":
            return shapes.expand_dims(pointer, _axis(op))
        if op.name in ("tt.bitcast", "arith.bitcast") and op.type is not None:
            return self._other_pointer(pointer, op.type.element)
        return None

    def _other_pointer(self, pointer: Pointer, element: str) -> Pointer | None:
        """The same addresses of elements of another type: of its size, or one address."""
        if BYTES[element] == BYTES[pointer.element]:
            return replace(pointer, element=element)
        if pointer.offset is not None or len(pointer.steps.values) != 1:
            return None
        base = self.moved(pointer.base, pointer.element, str(pointer.steps.first), "i64")
        return Pointer(element, pointer.shape, base, None, pointer.steps.each(lambda _: 0), pointer.origin)

    def _chosen_pointer(self, op: Operation, operands: list[Value]) -> Value | None:
        """One address or another; only for scalars."""
        condition, x, y = operands
        if not (isinstance(condition, Tensor) and isinstance(x, Pointer) and isinstance(y, Pointer)) or x.shape:
            return None
        a, b = self.anchored(x), self.anchored(y)
        origin = x.origin
        if self.checked and x.origin != y.origin:
            origin = self.once(f"select i1 {condition.ref}, i64 {x.origin}, i64 {y.origin}")
        return Pointer(
            x.element, (), self.once(f"select i1 {condition.ref}, ptr {a.base}, ptr {b.base}"), origin=origin
        )

    def _tensor_result(self, op: Operation, operands: list[Tensor]) -> Value | None:
        name, kind = op.name, op.type
        shape = () if kind is None else kind.shape
        if name == "tt.get_program_id":
            return Tensor("i32", (), (), "%program" if op.text.split()[0] == "x" else "0")
        if name == "tt.get_num_programs":
            return Tensor("i32", (), (), "%programs" if op.text.split()[0] == "x" else "1")
        if name == "tt.make_range":
            return shapes.make_range(op)
        if not operands:
            return None
        first = operands[0]
        if name == "tt.splat":
            return shapes.splat(first, shape)
        if name == "tt.broadcast":
            return shapes.broadcast(first, shape)
        if name == "tt.expand_dims":
            return shapes.expand_dims(first, _axis(op))
        if name == "tt.reshape":
            return shapes.reshape(self, first, shape)
        if name == "tt.trans":
            order = re.search(r"order = array<i32: ([\d, ]+)>", op.text)
            return None if order is None else shapes.transpose(self, first, [int(n) for n in order[1].split(",")])
        if name == "tt.join":
            return shapes.join(self, first, operands[1])
        if name == "tt.cat":
            return shapes.concatenate(self, first, operands[1], shape)
        if name == "tt.unsplat":
            return Tensor(
                first.element,
                (),
                (),
                self.part(REGISTER[first.element], self.whole(first).ref, prod(self.stored(first)), 0, 1),
            )
        if name == "tt.dot":
            return shapes.dot(self, *operands[:3])
        if name == "tt.extern_elementwise":
            return self._extern(op, operands)
        if name == "arith.select":
            return arithmetic.select(self, operands)
        if name in ("arith.cmpi", "arith.cmpf"):
            return arithmetic.compare(self, op, operands)
        if kind is not None:
            converted = arithmetic.convert(self, op, first, kind.element) if len(operands) == 1 else None
            if converted is not None:
                return converted
        if first.element in FLOATS:
            return arithmetic.floats(self, op, [self.whole(operand) for operand in operands])
        return arithmetic.whole_numbers(self, op, operands)

    def _extern(self, op: Operation, operands: list[Tensor]) -> Tensor | None:
        symbol = re.search(r'symbol = "(\w+)"', op.text)
        if symbol is None or op.type is None:
            return None
        name = symbol[1].removesuffix("f") if op.type.element == "f32" else symbol[1]
        if name in arithmetic.INSTRUCTIONS:
            instruction = replace(op, name=arithmetic.INSTRUCTIONS[name])
            return arithmetic.floats(self, instruction, [self.whole(operand) for operand in operands])
        return arithmetic.library_call(self, symbol[1], operands, op.type.element)


def _axis(op: Operation) -> int:
    found = re.search(r"axis = (\d+)", op.text)
    assert found is not None
    return int(found[1])


def _used(operations: list[Operation]) -> set[str]:
    """All names that are operands somewhere."""
    names: set[str] = set()
    for op in operations:
        names.update(op.operands)
        for region in op.regions:
            names |= _used(region)
    return names


def _constant(op: Operation) -> Tensor:
    """One number, in all lanes; Triton has no others but of a few lanes."""
    kind = op.type
    assert kind is not None
    text = op.text.strip()
    dense = re.match(r"dense<(.*)>$", text)
    raw = dense[1] if dense else re.sub(r"\s*:.*", "", text)
    ones = (1,) * len(kind.shape)
    if raw.startswith("["):
        values = [int(n) for n in re.findall(r"-?\d+", raw)]
        return Tensor(kind.element, kind.shape, kind.shape, integers(values, kind.element))
    if kind.element == "i1":
        return Tensor("i1", kind.shape, ones, "true" if raw in ("true", "1", "-1") else "false")
    if kind.element not in FLOATS:
        return Tensor(kind.element, kind.shape, ones, str(int(raw, 0)))
    value = _float(raw, kind.element)
    return Tensor(kind.element, kind.shape, ones, arithmetic.float_literal(kind.element, value), number=value == value)


def _float(raw: str, element: str) -> float:
    """From decimals, or from the bits of what is not finite."""
    if not raw.startswith("0x"):
        return float(raw)
    bits = int(raw, 16)
    if element == "bf16":
        bits, element = bits << 16, "f32"
    unsigned, floating = {"f16": ("<H", "<e"), "f32": ("<I", "<f"), "f64": ("<Q", "<d")}[element]
    return struct.unpack(floating, struct.pack(unsigned, bits))[0]


def lower(
    kernel: Kernel, name: str, host: Host, *, leading: int = 0, exclusive: bool = False, checked: bool = False
) -> Lowered:
    """LLVM's text of a kernel, with an entry for ranges of its programs.

    Args:
        kernel: As read from Triton's form.
        name: For errors.
        host: What the CPU can do.
        leading: How many of its first parameters differ from call to call.
        exclusive: Atomic operations need not be: the launch keeps programs that share memory in one thread.
        checked: Hold every access against the extents of the launch's tensors.

    Raises:
        UnsupportedOperationError: Naming the operation and its line.
    """
    lowering = Lowering(kernel, name, host, exclusive=exclusive, checked=checked)
    body = lowering.lower()
    kinds = list(kernel.parameters.values())
    return Lowered(
        _module(lowering, body, kinds, leading),
        [name.lstrip("%") for name in kernel.parameters],
        ["ptr" if kind.pointer else kind.element for kind in kinds],
        lowering.sites,
    )


def _llvm(kind: Type) -> str:
    return "ptr" if kind.pointer else REGISTER[kind.element]


def _module(lowering: Lowering, body: list[str], kinds: list[Type], leading: int) -> str:
    parameters = "".join(f", {_llvm(kind)} %a{i}" for i, kind in enumerate(kinds))
    slots = "\n".join(f"  {name} = alloca {kind}, align 64" for name, kind in lowering.slots.items())
    lines = "\n"
    functions = [
        f"""define internal i1 @program(i32 %program, i32 %programs, ptr %frame{parameters}) alwaysinline #0 {{
start:
{slots}
{lines.join(body)}
}}""",
        *lowering.helpers.values(),
        _entry(kinds, leading),
    ]
    # An intrinsic is declared once, whoever needs it.
    text = lines.join(functions).splitlines()
    declared = sorted(lowering.declared | {line for line in text if line.startswith("declare")})
    code = lines.join(line for line in text if not line.startswith("declare"))
    return f"""@zeros = internal constant [{lowering.zeros} x i8] zeroinitializer, align 64
{lines.join(declared)}
{code}
attributes #0 = {{ nounwind "no-trapping-math"="true" {lowering.host.attributes} }}
"""


def _entry(kinds: list[Type], leading: int) -> str:
    """The functions that run ranges of programs; what they take is described in ``launch.py``."""
    leading_kinds = [_llvm(kind) for kind in kinds[:leading]]
    leading_parameters = "".join(f", {kind} %l{i}" for i, kind in enumerate(leading_kinds))
    stored, loaded = [], []
    for i, kind in enumerate(kinds):
        stored.append(f"  %into{i} = getelementptr i64, ptr %job, i64 {JOB + i}")
        if i < leading:
            stored.append(f"  store {leading_kinds[i]} %l{i}, ptr %into{i}, align 8")
        else:
            stored.append(f"  %from{i} = getelementptr i64, ptr %template, i64 {TEMPLATE + i}")
            stored.append(f"  %copy{i} = load i64, ptr %from{i}, align 8")
            stored.append(f"  store i64 %copy{i}, ptr %into{i}, align 8")
        loaded.append(f"  %at{i} = getelementptr i64, ptr %job, i64 {JOB + i}")
        loaded.append(f"  %a{i} = load {_llvm(kind)}, ptr %at{i}, align 8")
    passed = "".join(f", {_llvm(kind)} %a{i}" for i, kind in enumerate(kinds))
    lines = "\n"
    return f"""define internal void @worker(ptr %job) #0 {{
start:
{lines.join(loaded)}
{_fields("job", JOB_FIELDS)}
  %programs32 = trunc i64 %programs to i32
  %columns32 = trunc i64 %columns to i32
  %rows = udiv i64 %programs, %columns
  br label %take
take:
  %unit = atomicrmw add ptr %job, i64 1 monotonic, align 8
  %mine = icmp slt i64 %unit, %units
  br i1 %mine, label %unit_start, label %end
unit_start:
  %column = udiv i64 %unit, %units_of_column
  %before = mul i64 %column, %units_of_column
  %place = sub i64 %unit, %before
  %first = mul i64 %place, %rows_of_unit
  %past = add i64 %first, %rows_of_unit
  %last = call i64 @llvm.smin.i64(i64 %past, i64 %rows)
  %first32 = trunc i64 %first to i32
  %last32 = trunc i64 %last to i32
  %column32 = trunc i64 %column to i32
  %some = icmp slt i32 %first32, %last32
  br i1 %some, label %loop, label %take
loop:
  %row = phi i32 [ %first32, %unit_start ], [ %following, %next ]
  %row_start = mul i32 %row, %columns32
  %id = add i32 %row_start, %column32
  %bad = call i1 @program(i32 %id, i32 %programs32, ptr %frame{passed})
  br i1 %bad, label %failed, label %next
next:
  %following = add i32 %row, 1
  %more = icmp slt i32 %following, %last32
  br i1 %more, label %loop, label %take
failed:
  store i64 1, ptr %at_failed, align 8
  ret void
end:
  ret void
}}
define i32 @launch(ptr %template, ptr %frame, ptr %parallel, i32 %threads, i64 %rows_of_unit{leading_parameters}) #0 {{
start:
  %job = alloca [{JOB + len(kinds)} x i64], align 64
{_fields("template", TEMPLATE_FIELDS)}
  %rows = udiv i64 %programs, %columns
  %rounded = add i64 %rows, %rows_of_unit
  %less = sub i64 %rounded, 1
  %units_of_column = udiv i64 %less, %rows_of_unit
  %units = mul i64 %units_of_column, %columns
  %frame_number = ptrtoint ptr %frame to i64
{_filled("job", JOB_FIELDS, {"counter": "0", "failed": "0", "frame": "%frame_number"})}
{lines.join(stored)}
  %is_alone = icmp sle i32 %threads, 1
  br i1 %is_alone, label %alone, label %together
alone:
  call void @worker(ptr %job)
  br label %end
together:
  %has_team = icmp ne ptr %parallel, null
  br i1 %has_team, label %theirs, label %own
theirs:
  call void %parallel(ptr @worker, ptr %job, i32 %threads, i32 0)
  br label %end
own:
  call void @team(ptr %job, i32 %threads)
  br label %end
end:
  %result = load i64, ptr %into_failed, align 8
  %result32 = trunc i64 %result to i32
  ret i32 %result32
}}
{TEAM}
declare i64 @llvm.smin.i64(i64, i64)"""


# Threads for one job, where the process has no team of them. What there is no thread for, the others do.
TEAM = """define internal ptr @start(ptr %job) {
start:
  call void @worker(ptr %job)
  ret ptr null
}
define internal void @team(ptr %job, i32 %threads) {
start:
  %handles = alloca i64, i32 %threads
  br label %create
create:
  %i = phi i32 [ 1, %start ], [ %next, %created ]
  %more = icmp slt i32 %i, %threads
  br i1 %more, label %one, label %work
one:
  %at = getelementptr i64, ptr %handles, i32 %i
  %error = call i32 @pthread_create(ptr %at, ptr null, ptr @start, ptr %job)
  %is_made = icmp eq i32 %error, 0
  br i1 %is_made, label %created, label %work
created:
  %next = add i32 %i, 1
  br label %create
work:
  call void @worker(ptr %job)
  br label %join
join:
  %j = phi i32 [ 1, %work ], [ %following, %joined ]
  %left = icmp slt i32 %j, %i
  br i1 %left, label %joined, label %end
joined:
  %at_j = getelementptr i64, ptr %handles, i32 %j
  %handle = load i64, ptr %at_j
  %waited = call i32 @pthread_join(i64 %handle, ptr null)
  %following = add i32 %j, 1
  br label %join
end:
  ret void
}
declare i32 @pthread_create(ptr, ptr, ptr, ptr)
declare i32 @pthread_join(i64, ptr)"""
# What a job has before its arguments, in 64 bits each, and what a template has.
JOB_FIELDS = ("counter", "programs", "columns", "rows_of_unit", "units_of_column", "units", "failed", "frame")
TEMPLATE_FIELDS = ("programs", "columns")
JOB, TEMPLATE = len(JOB_FIELDS), len(TEMPLATE_FIELDS)


def _fields(structure: str, names: tuple[str, ...]) -> str:
    """Load all fields but the counter, which others change."""
    lines = []
    for i, name in enumerate(names):
        lines.append(f"  %at_{name} = getelementptr i64, ptr %{structure}, i64 {i}")
        if name not in ("counter", "failed"):
            kind = "ptr" if name == "frame" else "i64"
            lines.append(f"  %{name} = load {kind}, ptr %at_{name}, align 8")
    return "\n".join(lines)


def _filled(structure: str, names: tuple[str, ...], values: dict[str, str]) -> str:
    """Store all fields."""
    lines = []
    for i, name in enumerate(names):
        lines.append(f"  %into_{name} = getelementptr i64, ptr %{structure}, i64 {i}")
        lines.append(f"  store i64 {values.get(name, f'%{name}')}, ptr %into_{name}, align 8")
    return "\n".join(lines)
