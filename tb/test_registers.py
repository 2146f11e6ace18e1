"""The register block against its description: every access, every kind of field, and the bus rules."""

from __future__ import annotations

import gc
import random
import re

import pytest
from amaranth.sim import Simulator
from axi_models import LiteHost
from systemrdl import RDLCompiler
from systemrdl.node import FieldNode
from systemrdl.rdltypes import AccessType, OnWriteType

from tessera.rtl import isa
from tessera.rtl.axi import LITE_ADDRESS_BITS, OKAY
from tessera.rtl.control import registers
from tessera.rtl.control.axi_lite import DECERR
from tessera.rtl.control.register_map import register_map, root
from tessera.rtl.control.registers import Registers

REGISTERS = register_map()


def simulate(bench):
    dut = Registers()
    sim = Simulator(dut)
    sim.add_clock(1e-8)

    async def run(ctx):
        await bench(ctx, dut, LiteHost(ctx, dut.axi), dut.fields)

    sim.add_testbench(run)
    sim.run()


async def read(host, name):
    """A register's value, both words of it."""
    value = 0
    for shift, address in enumerate(REGISTERS[name].words):
        word, resp = await host.read(address)
        assert resp == OKAY
        value |= word << 32 * shift
    return value


def test_map_has_no_overlaps_and_fits():
    addresses = [address for register in REGISTERS.values() for address in register.words]
    assert len(set(addresses)) == len(addresses)
    assert max(addresses) < 1 << LITE_ADDRESS_BITS
    assert len(REGISTERS["stream[0].control"].fields) == 3


def test_sizes_follow_the_instruction_set():
    assert sum(name.startswith("stream[0].busy[") for name in REGISTERS) == len(isa.Unit)
    code = REGISTERS["stream[0].error"].fields["code"]
    assert max(isa.ErrorCode) <= code.extract(code.mask)
    assert REGISTERS["stream[0].address"].encode(instruction=1) == isa.INSTRUCTION_BYTES
    for name in ("irq_enable", "irq_status"):
        fields = REGISTERS[f"stream[0].{name}"].fields
        assert fields["context_error"].width == fields["context_finished"].width == isa.CONTEXTS
    finished = {f"stream[0].context[{number}].finished" for number in range(isa.CONTEXTS)}
    assert {REGISTERS[name].fields["count"].width for name in finished} == {isa.FINISHED_BITS}


def test_encode_refuses_what_does_not_fit():
    message = "stream[0].error.code = 16 does not fit in 4 bits"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        REGISTERS["stream[0].error"].encode(code=16)


def test_constants_and_unmapped_addresses():
    async def bench(ctx, dut, host, fields):
        assert (await read(host, "id")).to_bytes(4, "big") == b"TSRA"
        version = REGISTERS["version"]
        assert version.fields["major"].extract(await read(host, "version")) == 2
        mapped = {address for register in REGISTERS.values() for address in register.words}
        for address in range(0, 1 << LITE_ADDRESS_BITS, 4):
            expected = OKAY if address in mapped else DECERR
            assert (await host.read(address))[1] == expected, hex(address)
            assert await host.write(address, 0) == expected, hex(address)

    simulate(bench)


@pytest.mark.parametrize("seed", range(3))
def test_stored_field(seed):
    """Words, byte strobes, and bits outside the field, in any order of address and data and with slow responses."""
    rng = random.Random(seed)
    register = REGISTERS["stream[0].address"]
    mask = register.fields["instruction"].mask

    async def bench(ctx, dut, host, fields):
        value = 0
        for _ in range(30):
            half = rng.randrange(2)
            word, strobe = rng.getrandbits(32), rng.randrange(16)
            resp = await host.write(
                register.words[half], word, strobe=strobe, write_lead=rng.randrange(-3, 4), stall=rng.randrange(4)
            )
            assert resp == OKAY
            written = sum(0xFF << 8 * byte for byte in range(4) if strobe >> byte & 1)
            value = value & ~(written << 32 * half) | (word & written) << 32 * half
            assert await read(host, "stream[0].address") == value & mask
            assert ctx.get(fields.stream[0].address.instruction.value) == value >> 5 & (1 << 35) - 1

    simulate(bench)


def test_pulse_fields():
    control = REGISTERS["stream[0].control"]
    seen = []

    async def bench(ctx, dut, host, fields):
        async def watch():
            return tuple(ctx.get(getattr(fields.stream[0].control, name).value) for name in control.fields)

        for value in (1, 0, 2, 3, 4):
            ctx.set(dut.axi.aw.payload.addr, control.address)
            ctx.set(dut.axi.w.payload, {"data": value, "strb": 0xF})
            ctx.set(dut.axi.aw.valid, 1)
            ctx.set(dut.axi.w.valid, 1)
            ctx.set(dut.axi.b.ready, 1)
            await ctx.tick()
            ctx.set(dut.axi.aw.valid, 0)
            ctx.set(dut.axi.w.valid, 0)
            pulses = []
            for _ in range(6):
                pulses.append(await watch())
                await ctx.tick()
            seen.append(tuple(map(sum, zip(*pulses, strict=True))))
            ctx.set(dut.axi.b.ready, 0)
        assert await read(host, "stream[0].control") == 0

    simulate(bench)
    assert list(control.fields) == ["start", "reset", "pause"]
    assert seen == [(1, 0, 0), (0, 0, 0), (0, 1, 0), (1, 1, 0), (0, 0, 1)]


def test_status_fields():
    status = REGISTERS["stream[0].status"]

    async def bench(ctx, dut, host, fields):
        for value in range(16):
            for bit, name in enumerate(status.fields):
                ctx.set(getattr(fields.stream[0].status, name).value, value >> bit & 1)
            assert await read(host, status.name) == value
            assert await host.write(status.address, 7) == OKAY

    simulate(bench)


def test_interrupts():
    """A set bit stays until 1 is written to it; only enabled bits reach the pin; a set wins over a clear."""
    enable, status = REGISTERS["stream[0].irq_enable"], REGISTERS["stream[0].irq_status"]

    async def bench(ctx, dut, host, fields):
        port = fields.stream[0].irq_status

        async def pulse(name):
            ctx.set(getattr(port, name).set, 1)
            await ctx.tick()
            ctx.set(getattr(port, name).set, 0)

        await pulse("done")
        assert (await read(host, status.name), ctx.get(dut.irq)) == (status.encode(done=1), 0)
        await host.write(enable.address, enable.encode(done=1))
        assert ctx.get(dut.irq) == 1
        await host.write(status.address, status.encode(error=1))
        assert ctx.get(dut.irq) == 1
        await host.write(status.address, status.encode(done=1))
        assert (await read(host, status.name), ctx.get(dut.irq)) == (0, 0)
        await pulse("error")
        assert ctx.get(dut.irq) == 0
        await host.write(enable.address, enable.encode(done=1, error=1))
        assert ctx.get(dut.irq) == 1
        ctx.set(port.error.set, 1)
        await host.write(status.address, status.encode(error=1))
        ctx.set(port.error.set, 0)
        assert await read(host, status.name) == status.encode(error=1)

    simulate(bench)


def test_counters():
    async def bench(ctx, dut, host, fields):
        stream = fields.stream[0]
        ctx.set(stream.saturations.value.increment, 200)
        ctx.set(stream.busy[3].value.increment, 1)
        await ctx.tick().repeat(5)
        ctx.set(stream.saturations.value.increment, 0)
        ctx.set(stream.busy[3].value.increment, 0)
        assert await read(host, "stream[0].saturations") == 1000
        assert await read(host, "stream[0].busy[3]") == 5
        assert await read(host, "stream[0].busy[2]") == 0
        assert await host.write(REGISTERS["stream[0].busy[3]"].address, 77) == OKAY
        assert await read(host, "stream[0].busy[3]") == 5
        ctx.set(stream.saturations.value.clear, 1)
        ctx.set(stream.saturations.value.increment, 9)
        await ctx.tick()
        ctx.set(stream.saturations.value.clear, 0)
        ctx.set(stream.saturations.value.increment, 0)
        assert await read(host, "stream[0].saturations") == 0

    simulate(bench)


# ---------------------------------------------------------------------------- every field, from the description itself


class Field:
    """A field of the description: its properties, and where it is."""

    def __init__(self, node: FieldNode):
        self.node = node
        self.path = node.get_rel_path(root())
        self.register = REGISTERS[self.path.rpartition(".")[0]]
        self.low, self.width, self.ones = node.low, node.width, (1 << node.width) - 1
        self.reset = node.get_property("reset") or 0

    def port(self, ports):
        """Its ports, among those of the register block."""
        for name in re.findall(r"[^.\[\]]+", self.path):
            ports = ports[int(name)] if name.isdigit() else getattr(ports, name)
        return ports

    def of(self, value):
        """The field in a register's value."""
        return value >> self.low & self.ones


def all_fields(**properties):
    """The fields of the description that have these properties."""
    nodes = [node for node in root().descendants(unroll=True) if isinstance(node, FieldNode)]
    wanted = properties.items()
    return [Field(node) for node in nodes if all(bool(node.get_property(name)) == value for name, value in wanted)]


def stored_fields():
    """Those that software writes and reads back."""
    fields = all_fields(singlepulse=False, intr=False, counter=False)
    return [field for field in fields if field.node.get_property("sw") is AccessType.rw]


def shown_fields():
    """Those that the hardware drives."""
    fields = all_fields(intr=False, counter=False)
    return [field for field in fields if field.node.get_property("sw") is AccessType.r and field.node.is_hw_writable]


async def write(host, register, value):
    """Writes a register, both words of it."""
    for shift, address in enumerate(register.words):
        assert await host.write(address, value >> 32 * shift & 0xFFFF_FFFF) == OKAY


def test_every_field_has_a_kind_that_is_tested():
    kinds = [
        stored_fields(),
        shown_fields(),
        all_fields(singlepulse=True),
        all_fields(intr=True),
        all_fields(counter=True),
        [field for field in all_fields(counter=False) if field.node.get_property("hw") is AccessType.na],
    ]
    paths = sorted(field.path for kind in kinds for field in kind)
    assert paths == sorted(field.path for field in all_fields())


def test_reset_of_every_field():
    async def bench(ctx, dut, host, fields):
        for name, register in REGISTERS.items():
            value = await read(host, name)
            for field in all_fields():
                if field.register is register:
                    assert field.of(value) == (field.reset if field.node.is_sw_readable else 0), field.path
        for field in stored_fields():
            assert ctx.get(field.port(fields).value) == field.reset, field.path

    simulate(bench)


@pytest.mark.parametrize("seed", [1])
def test_every_stored_field(seed):
    """What is written is there, for software and hardware, and stays when everything else is written."""
    rng = random.Random(seed)
    stored = stored_fields()
    written = {field.register.name: field.register for field in stored}

    async def bench(ctx, dut, host, fields):
        values = {}
        for name in rng.sample(sorted(written), len(written)):
            values[name] = rng.getrandbits(written[name].width)
            await write(host, written[name], values[name])
        for name, register in REGISTERS.items():
            if name not in written:
                await write(host, register, 0)
        for field in stored:
            value = field.of(values[field.register.name])
            assert ctx.get(field.port(fields).value) == value, field.path
            assert field.of(await read(host, field.register.name)) == value, field.path
        for name, register in written.items():
            await write(host, register, ~values[name] & (1 << register.width) - 1)
        for field in stored:
            assert ctx.get(field.port(fields).value) == ~field.of(values[field.register.name]) & field.ones, field.path

    simulate(bench)


@pytest.mark.parametrize("seed", [2])
def test_every_shown_field(seed):
    """Software reads what the hardware shows, and cannot change it."""
    rng = random.Random(seed)
    shown = shown_fields()

    async def bench(ctx, dut, host, fields):
        values = {field.path: rng.getrandbits(field.width) for field in shown}
        for field in shown:
            ctx.set(field.port(fields).value, values[field.path])
        for field in shown:
            assert field.of(await read(host, field.register.name)) == values[field.path], field.path
        for register in {field.register.name: field.register for field in shown}.values():
            await write(host, register, 0)
        for field in shown:
            assert field.of(await read(host, field.register.name)) == values[field.path], field.path
            ctx.set(field.port(fields).value, 0)
            assert field.of(await read(host, field.register.name)) == 0, field.path

    simulate(bench)


def test_every_pulse_field():
    """Writing 1 makes one pulse of one cycle, of this field alone; writing 0 none; it reads as 0."""
    pulses = all_fields(singlepulse=True)

    dut = Registers()
    counts = {}
    sim = Simulator(dut)
    sim.add_clock(1e-8)

    async def count(ctx):
        async for _ in ctx.tick():
            for field in pulses:
                counts[field.path] = counts.get(field.path, 0) + ctx.get(field.port(dut.fields).value)

    async def write_all(ctx):
        host = LiteHost(ctx, dut.axi)
        await host.read(0)
        for field in pulses:
            expected = dict(counts)
            expected[field.path] += field.ones
            await write(host, field.register, 0)
            await write(host, field.register, field.ones << field.low)
            assert field.of(await read(host, field.register.name)) == 0, field.path
            assert counts == expected, field.path

    sim.add_testbench(count, background=True)
    sim.add_testbench(write_all)
    sim.run()
    assert set(counts.values()) == {1}


def test_every_interrupt_field():
    """A pulse sets it, only writing 1 to it clears it, and it reaches the pin only while its own enable field is 1."""
    interrupts = all_fields(intr=True)

    async def bench(ctx, dut, host, fields):
        for field in interrupts:
            assert field.node.get_property("onwrite") is OnWriteType.woclr, field.path
            enable = Field(field.node.get_property("enable"))
            port = field.port(fields)
            for bit in range(field.width):
                mask = 1 << field.low + bit
                ctx.set(port.set, 1 << bit)
                await ctx.tick()
                ctx.set(port.set, 0)
                await write(host, field.register, ((1 << 32) - 1) & ~mask)
                assert await read(host, field.register.name) == mask, field.path
                await write(host, enable.register, ((1 << 32) - 1) & ~(1 << enable.low + bit))
                assert not ctx.get(dut.irq), field.path
                await write(host, enable.register, 1 << enable.low + bit)
                assert ctx.get(dut.irq), field.path
                await write(host, enable.register, 0)
                assert not ctx.get(dut.irq), field.path
                await write(host, field.register, mask)
                assert await read(host, field.register.name) == 0, field.path

    simulate(bench)


@pytest.mark.parametrize("seed", [3])
def test_every_counter_field(seed):
    """It adds what it is told in every cycle, all its bits, software cannot change it, and a clear wins."""
    rng = random.Random(seed)
    counters = all_fields(counter=True)

    async def bench(ctx, dut, host, fields):
        expected = {}
        for field in counters:
            increment = field.port(fields).increment
            value = rng.randrange(1, 1 << len(increment))
            cycles = rng.randrange(1, 6)
            expected[field.path] = value * cycles
            ctx.set(increment, value)
            await ctx.tick().repeat(cycles)
            ctx.set(increment, 0)
        for field in counters:
            await write(host, field.register, (1 << field.register.width) - 1)
            assert field.of(await read(host, field.register.name)) == expected[field.path], field.path
        for field in counters:
            port = field.port(fields)
            ctx.set(port.increment, 1)
            ctx.set(port.clear, 1)
            await ctx.tick()
            ctx.set(port.increment, 0)
            ctx.set(port.clear, 0)
            assert field.of(await read(host, field.register.name)) == 0, field.path

    simulate(bench)


@pytest.fixture
def use_map(monkeypatch, tmp_path):
    """Makes `Registers` of another description."""

    def use(body):
        path = tmp_path / "small.rdl"
        path.write_text("addrmap small { default regwidth = 32; " + body + "};", encoding="utf-8")
        compiler = RDLCompiler()
        compiler.compile_file(str(path))
        node = compiler.elaborate("small").top
        monkeypatch.setattr(registers, "root", lambda: node)

    return use


def test_counter_overflow_and_carry(use_map):
    """A counter wraps or stays at its largest value; a 64-bit register is read as of one cycle."""
    use_map(
        """reg { field { sw=r; hw=na; counter; incrwidth=4; incrsaturate; } value[5:0] = 0; } most @ 0;
           reg { field { sw=r; hw=na; counter; incrwidth=4; } value[5:0] = 0; } wraps @ 4;
           reg { regwidth = 64; field { sw=r; hw=w; } value[63:0]; } wide @ 8;""",
    )

    async def bench(ctx, dut, host, fields):
        for port in (fields.most, fields.wraps):
            ctx.set(port.value.increment, 15)
        await ctx.tick().repeat(5)
        for port in (fields.most, fields.wraps):
            ctx.set(port.value.increment, 0)
        assert await host.read(0) == (63, OKAY)
        assert await host.read(4) == (75 % 64, OKAY)
        ctx.set(fields.wide.value.value, 0x1_FFFF_FFFF)
        assert await host.read(8) == (0xFFFF_FFFF, OKAY)
        ctx.set(fields.wide.value.value, 0x2_0000_0000)
        assert await host.read(12) == (1, OKAY)

    simulate(bench)


@pytest.mark.filterwarnings("ignore::amaranth.hdl.UnusedElaboratable")
def test_refuses_unknown_properties(use_map):
    use_map("reg { field { sw=rw; hw=rw; } value[5:0] = 0; } odd @ 0;")
    message = "register field small.odd.value: this combination of properties is not understood"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        Registers()
    gc.collect()  # what is left of it says that it was never used: here, where that is expected
