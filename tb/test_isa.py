"""The instruction set: round trips, refusals, disassembly, and which instructions a configuration executes."""

from __future__ import annotations

import dataclasses
import itertools
import random
import re
import subprocess
import sys
from enum import IntEnum

import pytest
from amaranth.sim import Simulator
from hypothesis import given
from hypothesis import strategies as st

from tessera.rtl import isa, legality
from tessera.rtl.config import NpuConfig
from tessera.rtl.control.decoder import Decoder
from tessera.rtl.isa import Depth, ErrorCode, Unit

EDGE = NpuConfig.preset("edge")
SMALL = dataclasses.replace(
    NpuConfig.preset("tiny"),
    name="small",
    lanes=2,
    activation_depths=(4, 8),
    weight_depths=(4,),
    float_formats=("fp16", "fp32"),
    tables=0,
)
ONE_LANE = dataclasses.replace(
    NpuConfig.preset("tiny"), name="one_lane", lanes=1, activation_depths=(4,), float_formats=()
)


def values_of(field: isa.Field) -> st.SearchStrategy:
    """Every value of a field, its limits often."""
    if field.kind is not int:
        element = st.sampled_from(list(field.kind))
    else:
        limits = st.sampled_from([field.minimum, field.maximum])
        element = st.one_of(limits, st.integers(field.minimum, field.maximum))
    return element if field.count == 1 else st.tuples(*[element] * field.count)


def instructions_of(kind: type[isa.Instruction]) -> st.SearchStrategy:
    return st.builds(kind, **{field.name: values_of(field) for field in isa.fields_of(kind)})


ANY_INSTRUCTION = st.one_of([instructions_of(kind) for kind in isa.INSTRUCTIONS])


@given(ANY_INSTRUCTION)
def test_round_trip(instruction):
    data = isa.encode(instruction)
    assert len(data) == isa.INSTRUCTION_BYTES
    assert isa.decode(data) == instruction


@given(st.binary(min_size=isa.INSTRUCTION_BYTES, max_size=isa.INSTRUCTION_BYTES))
def test_every_word_decodes_or_is_refused(data):
    """A word that decodes encodes to itself: no two words are the same instruction."""
    try:
        instruction = isa.decode(data)
    except isa.IsaError:
        return
    assert isa.encode(instruction) == data


@given(st.lists(ANY_INSTRUCTION.filter(lambda item: not isinstance(item, isa.End)), max_size=5), st.binary(max_size=40))
def test_stream_round_trip(instructions, rest):
    stream = [*instructions, isa.End()]
    assert isa.decode_stream(isa.encode_stream(stream) + rest) == stream


def test_fields_lie_side_by_side():
    for kind in isa.INSTRUCTIONS:
        position = isa.OPCODE_BITS
        for field in isa.fields_of(kind):
            assert field.offset == position
            position += field.width * field.count
        assert position <= isa.INSTRUCTION_BITS
    opcodes = [kind.opcode for kind in isa.INSTRUCTIONS]
    assert opcodes == sorted(set(opcodes))


REFUSALS = {
    "bad opcode": (lambda: isa.decode(b"\xee" + bytes(31)), "there is no instruction with opcode 0xee"),
    "unused bit": (
        lambda: isa.decode(b"\x02" + bytes(30) + b"\x80"),
        "fence: the unused bits 8..255 are not zero",
    ),
    "short": (lambda: isa.decode(bytes(31)), "an instruction has 32 bytes, not 31"),
    "too large": (lambda: isa.Store(columns=1 << 16), "store: columns = 65536 is outside 0..65535"),
    "too small": (lambda: isa.LaneProgram(origin_x=-4097), "lane: origin_x = -4097 is outside -4096..4095"),
    "count too large": (
        lambda: isa.Wait(counts=(0,) * 9 + (1 << 16,)),
        "wait: counts = 65536 is outside 0..65535",
    ),
    "wrong length": (lambda: isa.Wait(counts=(1, 2)), "wait: counts has 10 elements, not 2"),
    "no end": (
        lambda: isa.decode_stream(isa.encode(isa.Fence()) * 2),
        "the stream of 2 instructions has no end instruction",
    ),
    "no depth": (lambda: Depth.of(5), "there is no activation depth of 5 bits; use one of 4, 6, 8, 16"),
    "no format": (
        lambda: isa.MemoryFormat.of("fp8"),
        "there is no memory format 'fp8'; use one of integer, fp16, bf16, fp32",
    ),
    "no weight depth": (lambda: isa.WeightDepth.of(6), "there is no weight depth of 6 bits; use 4 or 8"),
}


@pytest.mark.parametrize("name", REFUSALS)
def test_refusal(name):
    make, message = REFUSALS[name]
    with pytest.raises(isa.IsaError, match=f"^{re.escape(message)}$"):
        make()


def test_disassembly():
    stream = [
        isa.Wait(targets=1 << Unit.LANE0 | 1 << Unit.PPU1, sources=1 << Unit.LOAD, counts=(3, *(0,) * 9)),
        isa.LaneProgram(lanes=0b0011, depth=Depth.A8, signed=1, origin_x=-1, channel_steps=4),
        isa.Bundle(index=2),
        isa.Select(operation=3, minimum=1, depths=0b1001, offsets=(-8, 0, 0, 16), lengths=(2, 0, 0, 0)),
        isa.Advance(targets=1 << Unit.STORE, counts=(0, 7, *(0,) * 8)),
        isa.Load(target=isa.LoadTarget.WEIGHTS, address=0x1000, columns=16, context=3),
        isa.Store(finished=1),
        isa.End(),
    ]
    assert list(isa.disassemble(stream)) == [
        "     0  wait   targets=lane0+ppu1 sources=load counts=3,0,0,0,0,0,0,0,0,0",
        "     1  lane   lanes=0011 depth=A8 signed=1 origin_x=-1 channel_steps=4",
        "     2  bundle index=2",
        "     3  select operation=3 minimum=A6 depths=A4+A16 offsets=-8,0,0,16 lengths=2,0,0,0",
        "     4  advance targets=store counts=0,7,0,0,0,0,0,0,0,0",
        "     5  load   context=3 address=0x1000 columns=16 target=WEIGHTS",
        "     6  store  finished=1",
        "     7  end",
    ]


@given(st.integers(-(1 << 31), (1 << 31) - 1), st.integers(0, (1 << 16) - 1), st.integers(0, 47))
def test_channel_parameters_round_trip(bias, multiplier, shift):
    parameters = isa.ChannelParameters(bias, multiplier, shift)
    assert isa.ChannelParameters.decode(parameters.encode()) == parameters


def test_units_of_instructions():
    assert isa.LaneProgram(lanes=0b1010).units() == (Unit.LANE1, Unit.LANE3)
    assert isa.Window(slice=1).units() == (Unit.WINDOW1,)
    assert isa.PostProcess(slice=0).units() == (Unit.PPU0,)
    assert isa.Fence().units() == ()


def test_tokens_of_instructions():
    both = 1 << Unit.LOAD | 1 << Unit.PPU1
    assert isa.LaneProgram(lanes=0b1010).tokens() == {Unit.LANE1: 1, Unit.LANE3: 1}
    assert isa.Advance(targets=both, counts=tuple(range(1, 11))).tokens() == {Unit.LOAD: 1, Unit.PPU1: 10}
    for instruction in (isa.Wait(targets=both), isa.Select(depths=1), isa.Fence()):
        assert instruction.tokens() == {}
    for instruction in (isa.Wait(targets=both), isa.Advance(targets=both)):
        assert (instruction.units(), instruction.workers()) == ((Unit.LOAD, Unit.PPU1), ())


def test_choice_of_a_depth():
    """By the words of the instruction, for every request, range, and mask of variants."""
    ranges = [(low, high) for low in Depth for high in Depth if low <= high]
    for mask, limits, own, requested in itertools.product(range(1, 16), ranges, ranges, Depth):
        select = isa.Select(depths=mask, minimum=own[0], maximum=own[1])
        both = [depth for depth in Depth if limits[0] <= depth <= limits[1] and own[0] <= depth <= own[1]]
        allowed = both or [depth for depth in Depth if own[0] <= depth <= own[1]]
        wanted = requested if both else limits[0] if limits[0] > own[1] else limits[1]
        nearest = min(allowed, key=lambda depth: abs(depth - wanted))
        below = [depth for depth in Depth if mask >> depth & 1 and depth <= nearest]
        shallowest = next(depth for depth in Depth if mask >> depth & 1)
        assert select.choice(requested, limits) is (below[-1] if below else shallowest)


ILLEGAL = {
    "zero loop": (
        EDGE, isa.Window(lanes=1, kernel_width=0),
        "window: kernel_width = 0, but in configuration 'edge' it must not be 0",
    ),
    "no gang": (
        EDGE, isa.LaneProgram(lanes=0b0110, depth=Depth.A8),
        "lane: lanes = 0b110, but in configuration 'edge' it must be the mask of one gang for depth: "
        "as many adjacent, aligned lanes as it has digits",
    ),
    "depth": (
        SMALL, isa.Store(lanes=1, chip_depth=Depth.A6),
        "store: chip_depth = 1, but in configuration 'small' it must be one of 0, 2",
    ),
    "format": (
        SMALL, isa.Load(lanes=1, memory_format=isa.MemoryFormat.BF16),
        "load: memory_format = 2, but in configuration 'small' it must be one of 0, 1, 3",
    ),
    "shift of integers": (
        EDGE, isa.Store(lanes=1, shift=16),
        "store: shift = 16, but in configuration 'edge' it must be from -16 to 15",
    ),
    "lane": (
        SMALL, isa.Load(lanes=0b100),
        "load: lanes = 0b100, but in configuration 'small' it must only have bits of the mask 0b11",
    ),
    "unit": (
        SMALL, isa.Wait(targets=1 << Unit.LANE2),
        "wait: targets = 0b10000, but in configuration 'small' it must only have bits of the mask 0b1111001111",
    ),
    "no variant": (
        EDGE, isa.Select(depths=0),
        "select: depths = 0, but in configuration 'edge' it must not be 0",
    ),
    "no range": (
        EDGE, isa.Select(depths=1, minimum=Depth.A8, maximum=Depth.A6),
        "select: minimum = 2, but in configuration 'edge' it must not be greater than maximum",
    ),
    "nothing advanced": (
        EDGE, isa.Advance(),
        "advance: targets = 0, but in configuration 'edge' it must not be 0",
    ),
    "alignment": (
        EDGE, isa.Load(target=isa.LoadTarget.WEIGHTS, lanes=1, address=0x18),
        "load: address = 24, but in configuration 'edge' it must be a multiple of 16",
    ),
    "base": (
        EDGE, isa.PostProcess(lanes=1, output_lanes=1, output_base=4096 * 2),
        "post: output_base = 8192, but in configuration 'edge' it must be less than 8192",
    ),
    "clamp": (
        EDGE, isa.PostProcess(lanes=1, output_lanes=1, clamp_low=5, clamp_high=4),
        "post: clamp_low = 5, but in configuration 'edge' it must not be greater than clamp_high",
    ),
    "table": (
        EDGE, isa.PostProcess(lanes=1, output_lanes=1, table=1, table_index=2, clamp_low=0, clamp_high=9),
        "post: table_index = 2, but in configuration 'edge' it must be less than 2",
    ),
    "operand of a table": (
        EDGE, isa.PostProcess(lanes=1, output_lanes=1, table=1, clamp_low=-40000, clamp_high=9),
        "post: clamp_low = -40000, but in configuration 'edge' it must be from -32768 to 32767",
    ),
    "no tables": (
        SMALL, isa.PostProcess(lanes=1, output_lanes=1, output_depth=Depth.A4, table=1),
        "post: table = 0b1, but in configuration 'small' it must only have bits of the mask 0b0",
    ),
    "no memory of tables": (
        SMALL, isa.Load(target=isa.LoadTarget.TABLES),
        "load: target = 3, but in configuration 'small' it must be one of 0, 1, 2",
    ),
    "load of a table": (
        EDGE, isa.Load(target=isa.LoadTarget.TABLES, base=128),
        "load: base = 128, but in configuration 'edge' it must be less than 128",
    ),
    "tile": (
        EDGE, isa.LaneProgram(lanes=1, tile_height=17, tile_width=16),
        "lane: tile_height = 17, but in configuration 'edge' it must be at most 256 when multiplied by tile_width",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", ILLEGAL)
def test_illegal_in_a_configuration(name):
    config, instruction, message = ILLEGAL[name]
    with pytest.raises(legality.IllegalInstruction, match=f"^{re.escape(message)}$"):
        legality.check(instruction, config)


def test_rules_apply_only_where_their_fields_are_used():
    legality.check(isa.Load(target=isa.LoadTarget.PARAMETERS, lanes=0, base=255), EDGE)
    legality.check(isa.PostProcess(source=isa.Source.WINDOW, lanes=0, tile_height=511, output_lanes=1), EDGE)
    legality.check(isa.PostProcess(lanes=1, output_lanes=1, residual_lanes=0b1010), EDGE)
    legality.check(isa.Load(lanes=1, address=3), EDGE)
    eight_bits = dataclasses.replace(SMALL, activation_depths=(8,))
    floats = {"memory_format": isa.MemoryFormat.FP32, "shift": -128, "chip_depth": Depth.A8, "lanes": 0b11}
    legality.check(isa.Store(**floats), eight_bits)
    legality.check(isa.Load(**floats), eight_bits)


def test_enumerations_are_members_however_given():
    """Equal instructions look alike to readers that compare with ``is``."""
    for kind in isa.INSTRUCTIONS:
        for field in isa.fields_of(kind):
            if issubclass(field.kind, IntEnum):
                assert type(getattr(kind(), field.name)) is field.kind, f"{kind.__name__}.{field.name}"
                for member in field.kind:
                    made = kind(**{field.name: int(member)})
                    assert getattr(made, field.name) is member
                    assert isa.decode(isa.encode(made)) == made
    assert dataclasses.replace(isa.Load(), chip_depth=1).chip_depth is isa.Depth.A6


def random_value(rng: random.Random, field: isa.Field):
    """Zero, a small value, a limit, or anything."""
    small = rng.randint(0, min(15, field.maximum))
    elements = tuple(
        rng.choice([0, small, field.maximum, rng.randint(field.minimum, field.maximum)]) for _ in range(field.count)
    )
    return elements if field.count > 1 else elements[0]


def random_legal(rng: random.Random, config: NpuConfig, kind: type[isa.Instruction]) -> dict[str, object]:
    """Fields that fulfil every rule: those that break one are drawn again."""
    fields = {field.name: field for field in isa.fields_of(kind)}
    values = {name: random_value(rng, field) for name, field in fields.items()}
    while broken := [rule for rule in legality.rules_of(kind, config) if not rule.holds(values.__getitem__)]:
        for rule in broken:
            for name in {rule.field, getattr(rule, "factor", rule.field), getattr(rule, "other", rule.field)}:
                values[name] = random_value(rng, fields[name])
    return values


def random_word(rng: random.Random, config: NpuConfig) -> bytes:
    """A legal instruction, of which one field or one bit may have been changed."""
    kind = rng.choice(isa.INSTRUCTIONS)
    values = random_legal(rng, config, kind)
    if values and rng.random() < 0.5:
        field = rng.choice(isa.fields_of(kind))
        values[field.name] = random_value(rng, field)
    word = kind.opcode
    for field in isa.fields_of(kind):
        for index, value in enumerate(values[field.name] if field.count > 1 else [values[field.name]]):
            word |= (int(value) & (1 << field.width) - 1) << field.offset + index * field.width
    if rng.random() < 0.1:
        word ^= 1 << rng.randrange(rng.choice([isa.OPCODE_BITS, isa.INSTRUCTION_BITS]))
    return word.to_bytes(isa.INSTRUCTION_BYTES, "little")


def expected_decoding(data: bytes, config: NpuConfig):
    """Error code and unit mask by the Python side."""
    if data[0] not in {kind.opcode for kind in isa.INSTRUCTIONS}:
        return ErrorCode.BAD_OPCODE, None
    try:
        instruction = isa.decode(data)
        legality.check(instruction, config)
    except isa.IsaError:
        return ErrorCode.BAD_OPERAND, None
    return ErrorCode.NONE, sum(1 << unit for unit in instruction.units())


@pytest.mark.parametrize("config", [EDGE, SMALL, ONE_LANE], ids=lambda config: config.name)
@pytest.mark.parametrize("seed", range(2))
def test_decoder_agrees_with_the_models(config, seed):
    """The decoder's error code and units are those of `isa.decode` and `legality.check`, word by word."""
    rng = random.Random(seed)
    dut = Decoder(config)
    codes, legal = set(), set()

    async def bench(ctx):
        ctx.set(dut.decoded.ready, 1)
        ctx.set(dut.fetched.valid, 1)
        for _ in range(800):
            data = random_word(rng, config)
            ctx.set(dut.fetched.payload.word, int.from_bytes(data, "little"))
            await ctx.tick()
            found = ctx.get(dut.decoded.payload)
            code, units = expected_decoding(data, config)
            codes.add(code)
            assert found.code == code, data.hex()
            if units is not None:
                assert found.units == units, data.hex()
                kind = type(isa.decode(data))
                legal.add(kind)
                marks = {"wait": isa.Wait, "fence": isa.Fence, "bundle": isa.Bundle, "end": isa.End}
                assert all(found[mark] == (kind is marked) for mark, marked in marks.items())

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(bench)
    sim.run()
    assert codes == {ErrorCode.NONE, ErrorCode.BAD_OPCODE, ErrorCode.BAD_OPERAND}
    assert legal == set(isa.INSTRUCTIONS)


def test_no_amaranth_is_needed():
    """Configuration, instruction set, legality and register map work in a Python without Amaranth."""
    modules = "tessera.rtl.config, tessera.rtl.isa, tessera.rtl.legality, tessera.rtl.control.register_map"
    program = f"import sys, {modules}; sys.exit('amaranth' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
