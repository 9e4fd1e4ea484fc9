"""Launch configurations: a frozen table, read on every call, never searched at run time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Config:
    """How a kernel is cut into programs."""

    # Output pixels of a program; 32 lanes cover rows of 16 or 8, so that rotated reads stay in few sectors.
    tile_h: int
    tile_w: int
    # Channels held in registers at a time.
    block_c: int
    # Of 32 lanes; half as many where a warp has 64.
    num_warps: int = 4
    # Samples that share what a tile's pixels have in common: a spline's basis.
    samples: int = 1
    # Registers a lane may have on NVIDIA, where the compiler would rather spill a few than run fewer warps.
    maxnreg: int | None = None

    def tiles(self, size: Sequence[int]) -> tuple[int, int]:
        """How many cover an image of ``size`` (height, width): in all, and side by side."""
        across = -(-size[1] // self.tile_w)
        return -(-size[0] // self.tile_h) * across, across


# NCHW, lanes over pixels, two each, whose coordinates serve all channels; a few channels at a time keep several
# independent loads in flight. All of the channels at once need no loop.
PIXELS_1 = Config(tile_h=16, tile_w=16, block_c=1, maxnreg=64)
PIXELS_2 = Config(tile_h=16, tile_w=16, block_c=2)
PIXELS_3 = Config(tile_h=16, tile_w=16, block_c=3)
PIXELS_4 = Config(tile_h=16, tile_w=8, block_c=4)
# Forward, four each share what the tile has in common; of two channels the compiler would rather spill some.
FORWARD_PIXELS_1 = Config(tile_h=32, tile_w=16, block_c=1)
FORWARD_PIXELS_3 = Config(tile_h=32, tile_w=16, block_c=3)
FORWARD_PIXELS_4 = Config(tile_h=16, tile_w=16, block_c=4)
# Sums of theta's gradient are carried from tile to tile, where there is no room for a second pixel each.
CARRIED_3 = Config(tile_h=16, tile_w=8, block_c=3)
# To gather, four pixels a lane share what is found out about the tile. Each block of channels finds the output pixels
# anew. A homography has too many numbers for that.
GATHER_PIXELS_1 = Config(tile_h=32, tile_w=16, block_c=1)
GATHER_PIXELS_2 = Config(tile_h=32, tile_w=16, block_c=2, maxnreg=64)
GATHER_PIXELS_3 = Config(tile_h=32, tile_w=16, block_c=3, maxnreg=64)
GATHER_PIXELS_4 = Config(tile_h=16, tile_w=16, block_c=4)
GATHER_PIXELS_8 = Config(tile_h=16, tile_w=8, block_c=8)
GATHER_PIXELS_16 = Config(tile_h=16, tile_w=8, block_c=16)
# One pixel each: for sixteen taps, whose weights serve all channels; and to scatter by a map of the user's, of which
# nobody knows how many registers it takes.
SINGLE_1 = Config(tile_h=16, tile_w=8, block_c=1)
SINGLE_2 = Config(tile_h=16, tile_w=8, block_c=2)
SINGLE_3 = Config(tile_h=16, tile_w=8, block_c=3)
# Left to itself the compiler spills a few of these.
GATHER_SINGLE_2 = Config(tile_h=16, tile_w=8, block_c=2, maxnreg=64)
CARRIED_SINGLE_4 = Config(tile_h=16, tile_w=8, block_c=4, maxnreg=96)
# Sums in fixed point, or sixteen taps of 64 bits.
HEAVY_PIXELS_1 = Config(tile_h=16, tile_w=8, block_c=1, maxnreg=255)
DOUBLE_PIXELS_1 = Config(tile_h=16, tile_w=8, block_c=1, maxnreg=255)
DOUBLE_PIXELS_2 = Config(tile_h=16, tile_w=8, block_c=2, maxnreg=255)
# channels_last, lanes over channels: a pixel's 64 channels are 8 or 16 lanes with a 16-byte access each.
CHANNELS_4 = Config(tile_h=8, tile_w=8, block_c=4)
CHANNELS_8 = Config(tile_h=8, tile_w=4, block_c=8)
CHANNELS_64 = Config(tile_h=4, tile_w=4, block_c=64, num_warps=8)
CHANNELS_64_HALF = Config(tile_h=4, tile_w=4, block_c=64)
GATHER_CHANNELS_4 = Config(tile_h=8, tile_w=8, block_c=4, maxnreg=64)
GATHER_CHANNELS_64 = Config(tile_h=4, tile_w=4, block_c=64, num_warps=8, maxnreg=64)
GATHER_CHANNELS_128 = Config(tile_h=4, tile_w=4, block_c=128, num_warps=8)
GATHER_CHANNELS_128_HALF = Config(tile_h=4, tile_w=4, block_c=128, maxnreg=64)
# Values of 64 bits take two registers each.
CHANNELS_4_DOUBLE = Config(tile_h=8, tile_w=4, block_c=4, maxnreg=255)
CHANNELS_32_DOUBLE = Config(tile_h=4, tile_w=4, block_c=32, maxnreg=255)
# channels_last where a value takes many registers: one or two values per lane.
HEAVY_CHANNELS_4 = Config(tile_h=8, tile_w=4, block_c=4, maxnreg=255)
HEAVY_CHANNELS_32 = Config(tile_h=4, tile_w=4, block_c=32, num_warps=8, maxnreg=255)
# Splines. The basis costs more than the samples' own work, unless there are many channels.
FORWARD_SPLINE_1 = Config(tile_h=16, tile_w=16, block_c=1, samples=8)
FORWARD_SPLINE_2 = Config(tile_h=16, tile_w=16, block_c=2, samples=8)
FORWARD_SPLINE_3 = Config(tile_h=16, tile_w=16, block_c=3, samples=8)
FORWARD_SPLINE_4 = Config(tile_h=16, tile_w=8, block_c=4, samples=8)
SPLINE_1 = Config(tile_h=16, tile_w=8, block_c=1, samples=8)
SPLINE_2 = Config(tile_h=16, tile_w=8, block_c=2, samples=8)
SPLINE_3 = Config(tile_h=16, tile_w=8, block_c=3, samples=8)
SPLINE_4 = Config(tile_h=16, tile_w=8, block_c=4, samples=8)
SPLINE_DOUBLE = Config(tile_h=16, tile_w=8, block_c=1, samples=4, maxnreg=255)
SPLINE_CHANNELS_4 = Config(tile_h=8, tile_w=4, block_c=4, samples=8)
# The small product that a spline's numbers are.
SPLINE_PRODUCT = Config(tile_h=0, tile_w=0, block_c=0, maxnreg=64)
# Kernels that go through memory as it lies have no tile.
FLAT = Config(tile_h=0, tile_w=0, block_c=0, maxnreg=255)
# The interpreter's cost is per program, whatever its size.
INTERPRETER = Config(tile_h=64, tile_w=64, block_c=2)
# On a CPU lanes are those of a few vector registers, and neighbours in memory.
CPU_PIXELS_1 = Config(tile_h=1, tile_w=32, block_c=1)
CPU_PIXELS_2 = Config(tile_h=1, tile_w=32, block_c=2)
CPU_PIXELS_3 = Config(tile_h=1, tile_w=32, block_c=3)
CPU_PIXELS_4 = Config(tile_h=1, tile_w=16, block_c=4)
CPU_DOUBLE_1 = Config(tile_h=1, tile_w=16, block_c=1)
CPU_DOUBLE_2 = Config(tile_h=1, tile_w=16, block_c=2)
CPU_SPLINE_1 = Config(tile_h=1, tile_w=32, block_c=1, samples=4)
CPU_SPLINE_2 = Config(tile_h=1, tile_w=32, block_c=2, samples=4)
CPU_SPLINE_3 = Config(tile_h=1, tile_w=32, block_c=3, samples=4)
CPU_SPLINE_4 = Config(tile_h=1, tile_w=32, block_c=4, samples=4)
CPU_CHANNELS_16 = Config(tile_h=1, tile_w=4, block_c=16)


@dataclass(frozen=True)
class Work:
    """What a kernel is to do, as far as its configuration depends on it."""

    channels_last: bool
    channels: int
    # Bytes of one value.
    itemsize: int
    # "projective", "spline", "custom" or "other".
    map: str
    # "forward", "theta" (backward without the input's gradient), "carried" (the same, several tiles at a time),
    # "scatter" or "gather".
    kind: str = "forward"
    bicubic: bool = False
    # Whether sums are in fixed point.
    fixed: bool = False
    # Whether coordinates outside of the image are brought back into it.
    padded: bool = False
    # Whether offsets within a sample take 64 bits.
    far: bool = False
    # Whether there is a displacement field or a fill.
    laden: bool = False


def choose_for_cpu(work: Work) -> Config:
    """The configuration for some work on a CPU."""
    if CPU.over_channels(work.channels_last, work.channels):
        return CPU_CHANNELS_16
    # Channels that are done together have the same lanes on: none of a block is missing, where that can be.
    together = next((count for count in (4, 3, 2) if work.channels % count == 0), 1)
    if work.map == "spline":
        return (CPU_SPLINE_1, CPU_SPLINE_2, CPU_SPLINE_3, CPU_SPLINE_4)[together - 1]
    if work.itemsize == 8:
        return CPU_DOUBLE_2 if work.channels % 2 == 0 else CPU_DOUBLE_1
    return (CPU_PIXELS_1, CPU_PIXELS_2, CPU_PIXELS_3, CPU_PIXELS_4)[together - 1]


def choose_for_interpreter(work: Work) -> Config:
    """One for all work."""
    return replace(INTERPRETER, samples=8 if work.map == "spline" else 1)


def choose(work: Work) -> Config:
    """The configuration for some work on a GPU."""
    if work.channels_last:
        return _choose_channels_last(work)
    double = work.itemsize == 8
    heavy = work.fixed or (work.bicubic and double)
    last = min(work.channels, 4) - 1
    if work.map == "spline":
        if double:
            return SPLINE_DOUBLE
        if work.kind == "forward" and _is_plain_spline(work):
            return (FORWARD_SPLINE_1, FORWARD_SPLINE_2, FORWARD_SPLINE_3, FORWARD_SPLINE_4)[last]
        return _of_spline((SPLINE_1, SPLINE_2, SPLINE_3, SPLINE_4)[last], work)
    if heavy:
        return HEAVY_PIXELS_1
    if double:
        return DOUBLE_PIXELS_1 if work.channels == 1 else DOUBLE_PIXELS_2
    if work.bicubic and work.kind == "gather" and work.channels == 2:
        return GATHER_SINGLE_2
    if work.bicubic and work.kind == "carried" and work.channels >= 4:
        return CARRIED_SINGLE_4
    if work.bicubic or (work.kind == "scatter" and work.map == "custom"):
        row = (SINGLE_1, SINGLE_2, SINGLE_3, PIXELS_4)[last]
        # With a fill's share of the slopes beside it, too much for the compiler left to itself.
        room = {"theta": 128, "carried": 255}.get(work.kind) if work.laden and work.bicubic else None
        return row if room is None else replace(row, maxnreg=room)
    if work.kind == "gather":
        # Many channels' addresses of 64 bits would take all registers there are.
        if work.channels >= 8 and not work.far:
            return GATHER_PIXELS_8 if work.channels < 16 else GATHER_PIXELS_16
        if work.channels >= 4:
            return GATHER_PIXELS_4
        if work.map != "projective":
            return (GATHER_PIXELS_1, GATHER_PIXELS_2, GATHER_PIXELS_3)[last]
    if work.map != "custom" and not work.padded:
        # More channels than that are bound by level 1, which smaller tiles use better.
        if work.kind == "forward" and work.channels <= 4:
            return (FORWARD_PIXELS_1, PIXELS_2, FORWARD_PIXELS_3, FORWARD_PIXELS_4)[last]
        if work.kind == "carried" and work.channels == 3:
            return CARRIED_3
    return (PIXELS_1, PIXELS_2, PIXELS_3, PIXELS_4)[last]


def _choose_channels_last(work: Work) -> Config:
    double = work.itemsize == 8
    if work.map == "spline" and work.channels <= 4:
        return SPLINE_DOUBLE if double else _of_spline(SPLINE_CHANNELS_4, work)
    if work.bicubic or work.fixed:
        return HEAVY_CHANNELS_4 if work.channels <= 4 else HEAVY_CHANNELS_32
    if double:
        return CHANNELS_4_DOUBLE if work.channels <= 16 else CHANNELS_32_DOUBLE
    if work.kind == "gather":
        if work.channels <= 4:
            return GATHER_CHANNELS_4
        if work.channels > 64:
            return GATHER_CHANNELS_128_HALF if work.itemsize == 2 else GATHER_CHANNELS_128
        if work.channels > 16 and work.itemsize == 4:
            return GATHER_CHANNELS_64
    if work.channels <= 16:
        return CHANNELS_4 if work.channels <= 4 else CHANNELS_8
    return CHANNELS_64_HALF if work.itemsize == 2 else CHANNELS_64


def _is_plain_spline(work: Work) -> bool:
    return not (work.bicubic or work.fixed or work.padded or work.far or work.laden)


def _of_spline(row: Config, work: Work) -> Config:
    """A spline's row, with fewer samples, whose coordinates wait in registers, where these hold much else."""
    if _is_plain_spline(work):
        return row
    return replace(row, samples=4, maxnreg=128 if work.bicubic or work.fixed else row.maxnreg)


@dataclass(frozen=True)
class Place:
    """Where kernels run, and how work is dealt to programs there."""

    choose: Callable[[Work], Config]
    # Programs below which processors would idle: channels are then split over programs, at the cost of computing the
    # coordinates again.
    enough_programs: int
    # Thetas of one input that a program takes at least, where there are too few programs.
    thetas_per_share: int
    # Programs that sum theta's gradient, where several tiles each leave so many, and how many tiles at most: a sum
    # over the lanes takes a third of one tile's instructions.
    plenty_of_programs: int
    most_tiles: int
    # Partial sums of theta's gradient, in numbers of all samples together. Splines, which leave many numbers a tile, go
    # through more tiles in one program rather than write more.
    theta_parts: int
    # Programs below which a spline's samples have less company, and more partial sums are written.
    spline_programs: int
    # Tiles of finish_backward_kernel: elements rounded per program; parts and columns summed at a time.
    block: int
    block_parts: int
    block_p: int
    block_c: int
    # Rows and samples of spline_product_kernel.
    block_rows: int
    block_m: int
    # Channels that lanes lie over in channels_last; fewer are strided images.
    fewest_channels: int = 1
    # Channels of a program whose lanes are pixels, where these lie far apart; 0: as many as there are.
    run_of_channels: int = 0
    # Whether the programs that add to one image's gradient run in one thread, in order.
    exclusive: bool = False
    # Whether the input's gradient is gathered where it can be. Without conflicts between threads it is more work.
    gathers: bool = True

    def samples_per_program(self, config: Config, tiles: int, thetas: int) -> int:
        """How many samples one program goes through: all programs as many, and enough programs."""
        samples = config.samples
        while samples > 1 and (samples > thetas or -(-thetas // samples) * tiles < self.spline_programs):
            samples //= 2
        return samples

    def over_channels(self, channels_last: bool, channels: int) -> bool:
        """Whether lanes lie over channels, or else over pixels, whatever lies between these."""
        return channels_last and channels >= self.fewest_channels

    def channels_per_program(
        self, config: Config, programs: int, channels: int, over_channels: bool, splittable: bool = True
    ) -> int:
        """The run of channels one program has, in whole blocks, given ``programs`` without a split."""
        blocks = -(-channels // config.block_c)
        if self.run_of_channels and not over_channels and splittable:
            return min(blocks, max(1, self.run_of_channels // config.block_c)) * config.block_c
        splits = min(blocks, max(1, self.enough_programs // max(programs, 1))) if splittable else 1
        return -(-blocks // splits) * config.block_c

    def shares_per_input(self, programs: int, thetas: int) -> int:
        """Among how many programs the thetas that read one input are dealt, given ``programs`` without doing so."""
        return min(-(-thetas // self.thetas_per_share), max(1, self.enough_programs // max(programs, 1)))

    def parts_per_sample(self, tiles: int, thetas: int, groups: int, numbers: int, channels_last: bool) -> int:
        """Among how many programs a sample's tiles are dealt, when each leaves a partial sum of ``numbers`` numbers.

        Thetas come in ``groups``, those that share programs.
        """
        # In channels_last there is much to do between one sum and the next.
        if numbers == 0 or (channels_last and numbers <= FEW_NUMBERS and not self.exclusive):
            return tiles
        if numbers <= FEW_NUMBERS:
            return -(-tiles // max(1, min(tiles * thetas // self.plenty_of_programs, self.most_tiles)))
        return min(tiles, max(self.theta_parts // (thetas * numbers), -(-self.spline_programs // groups)))


FEW_NUMBERS = 16
# About 130 multiprocessors, several programs each. Half a megabyte of partial sums in float32.
GPU = Place(
    choose,
    enough_programs=1024,
    thetas_per_share=4,
    plenty_of_programs=4096,
    most_tiles=8,
    theta_parts=2**17,
    spline_programs=512,
    block=1024,
    block_parts=64,
    block_p=16,
    block_c=32,
    block_rows=32,
    block_m=16,
)
INTERPRETED = replace(GPU, choose=choose_for_interpreter, spline_programs=1, block=2**20, block_c=64)
CPU = Place(
    choose_for_cpu,
    enough_programs=1,
    thetas_per_share=4,
    plenty_of_programs=1,
    most_tiles=64,
    theta_parts=2**12,
    spline_programs=8,
    block=64,
    block_parts=4,
    block_p=8,
    block_c=8,
    block_rows=8,
    block_m=8,
    fewest_channels=5,
    run_of_channels=8,
    exclusive=True,
    gathers=False,
)
