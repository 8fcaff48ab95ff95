"""Traffic and collectives of compiled programs against counts by hand."""

import jax
import jax.numpy as jnp
import pytest

from segic_jax.runtime.hlo_cost import program_cost
from segic_jax.runtime.hlo_text import shape_bytes

SQUARE = jax.ShapeDtypeStruct((64, 64), jnp.float32)
ARRAY = 4 * 64 * 64  # bytes


def compiled(function, *shapes):
    return jax.jit(function).lower(*shapes).compile()


def test_a_program_without_loops_costs_what_xla_counts():
    def layers(x, w):
        y = jnp.tanh(x @ w) @ w + x[::2].repeat(2, 0)
        return y - y.mean(-1, keepdims=True)

    program = compiled(layers, SQUARE, SQUARE)
    counted = program_cost(program.as_text()).bytes
    assert counted == pytest.approx(program.cost_analysis()["bytes accessed"], rel=0.05)


def loop(length):
    return lambda x, w: jax.lax.scan(lambda carry, _: (carry @ w, None), x, None, length=length)[0]


def test_loops_count_as_often_as_they_run():
    """A step of the loop reads two matrices and writes one; it may copy the carry besides."""
    cost = {length: program_cost(compiled(loop(length), SQUARE, SQUARE).as_text()) for length in (50, 100)}
    step = (cost[100].bytes - cost[50].bytes) / 50
    assert 3 * ARRAY <= step <= 5.1 * ARRAY
    assert all(not one.unknown_loops for one in cost.values())
    once = program_cost(compiled(loop(100), SQUARE, SQUARE).as_text(), loops=False)
    assert once.bytes < cost[100].bytes / 20


def test_nested_loops_multiply():
    def nested(x, w):
        return jax.lax.scan(lambda carry, _: (jnp.sin(loop(7)(carry, w)), None), x, None, length=30)[0]

    single = program_cost(compiled(loop(7 * 30), SQUARE, SQUARE).as_text()).bytes
    assert single < program_cost(compiled(nested, SQUARE, SQUARE).as_text()).bytes < 1.5 * single


def test_a_loop_that_takes_rows_reads_and_writes_rows():
    """The whole array is neither read nor written in every step."""
    rows = jax.ShapeDtypeStruct((1000, 64), jnp.float32)
    program = compiled(lambda x: jax.lax.map(jnp.sin, x), rows)
    assert program_cost(program.as_text()).bytes < 8 * 4 * 1000 * 64


def test_a_loop_of_unknown_length_is_reported():
    def until_small(x):
        return jax.lax.while_loop(lambda x: x.sum() > 1, lambda x: x / 2, x)

    text = compiled(until_small, SQUARE).as_text()
    once, often = program_cost(text), program_cost(text, unknown_trips=10)
    assert once.unknown_loops == 1
    assert 5 * once.bytes < often.bytes <= 10 * once.bytes


def test_shapes_with_tiles_and_memory_spaces():
    assert shape_bytes("f32[3,5]{1,0}") == 60
    assert shape_bytes("(bf16[3,5]{1,0}, s32[], pred[7]{0})") == 30 + 4 + 7
    assert shape_bytes("f32[3,5]{1,0:T(8,128)}") == 4 * 8 * 128
    assert shape_bytes("f32[3,5]{0,1:T(8,128)}") == 4 * 8 * 128
    assert shape_bytes("bf16[2,9,130]{2,1,0:T(8,128)(2,1)}") == 2 * 2 * 16 * 256
    assert shape_bytes("bf16[2,9,130]{0,2,1:T(8,128)(2,1)}") == 2 * 9 * 136 * 128
    assert shape_bytes("f32[100]{0:T(1024)S(1)}") == 4096
    assert shape_bytes("f32[100]{0:T(1024)S(1)}", on_chip=True) == 0


TEXT = """HloModule example, is_scheduled=true

FileNames
1 "/x/models/vit.py"
2 "/x/train/losses.py"

FunctionNames
1 "f"

FileLocations
1 {file_name_id=1 function_name_id=1 line=1 end_line=1 column=1 end_column=1}
2 {file_name_id=2 function_name_id=1 line=1 end_line=1 column=1 end_column=1}

StackFrames
1 {file_location_id=2 parent_frame_id=1}
2 {file_location_id=1 parent_frame_id=2}

%fused (p.0: f32[8,128], p.1: f32[100,128], p.2: s32[]) -> f32[100,128] {
  %p.0 = f32[8,128]{1,0} parameter(0)
  %p.1 = f32[100,128]{1,0} parameter(1)
  %p.2 = s32[] parameter(2)
  ROOT %update = f32[100,128]{1,0} dynamic-update-slice(%p.1, %p.0, %p.2, %p.2)
}

%body (arg: (f32[8,128], f32[100,128], s32[])) -> (f32[8,128], f32[100,128], s32[]) {
  %arg = (f32[8,128]{1,0}, f32[100,128]{1,0}, s32[]) parameter(0)
  %row = f32[8,128]{1,0} get-tuple-element(%arg), index=0
  %all = f32[100,128]{1,0} get-tuple-element(%arg), index=1
  %i = s32[] get-tuple-element(%arg), index=2
  %near = f32[8,128]{1,0:S(1)} copy(%row)
  %new = f32[100,128]{1,0} fusion(%near, %all, %i), kind=kLoop, calls=%fused, metadata={op_name="jit(f)/transpose(jvp())/add" stack_frame_id=2}
  ROOT %out = (f32[8,128]{1,0}, f32[100,128]{1,0}, s32[]) tuple(%row, %new, %i)
}

%condition (arg.1: (f32[8,128], f32[100,128], s32[])) -> pred[] {
  %arg.1 = (f32[8,128]{1,0}, f32[100,128]{1,0}, s32[]) parameter(0)
  %i.1 = s32[] get-tuple-element(%arg.1), index=2
  %limit = s32[] constant(12)
  ROOT %less = pred[] compare(%i.1, %limit), direction=LT
}

%add (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %sum = f32[] add(%a, %b)
}

ENTRY %main (x: f32[8,128], y: f32[100,128]) -> f32[100,128] {
  %x = f32[8,128]{1,0} parameter(0)
  %y = f32[100,128]{1,0} parameter(1)
  %zero = s32[] constant(0)
  %start = (f32[8,128]{1,0}, f32[100,128]{1,0}, s32[]) tuple(%x, %y, %zero)
  %loop = (f32[8,128]{1,0}, f32[100,128]{1,0}, s32[]) while(%start), condition=%condition, body=%body
  %result = f32[100,128]{1,0} get-tuple-element(%loop), index=1
  %gathered-start = (f32[100,128]{1,0}, f32[400,128]{1,0}) all-gather-start(%result), replica_groups=[2,4]<=[8], dimensions={0}
  %gathered = f32[400,128]{1,0} all-gather-done(%gathered-start)
  %reduced = f32[100,128]{1,0} all-reduce(%result), replica_groups={{0,1},{2,3}}, to_apply=%add
  ROOT %meshed = f32[100,128]{1,0} all-reduce(%reduced), replica_groups=mesh['a'=8,'b'=2] {'a'}, to_apply=%add
}
"""  # noqa: E501


def test_a_text_counted_by_hand():
    cost = program_cost(TEXT)
    row, all_rows = 4 * 8 * 128, 4 * 100 * 128
    # The copy reads a row from memory, the fusion reads it from the chip, and a counter, and writes a row.
    loop_bytes = 12 * (row + (4 + row) + (4 + 4 + 1))
    sums = 2 * 2 * all_rows
    assert cost.bytes == loop_bytes + 5 * all_rows + sums
    assert cost.collectives == {"all-gather": 1, "all-reduce": 2}
    assert cost.collective_bytes == {"all-gather": 4 * all_rows, "all-reduce": 2 * all_rows}
    assert cost.sent_bytes == 4 * all_rows * 3 / 4 + all_rows * 2 * 1 / 2 + all_rows * 2 * 7 / 8
    assert program_cost(TEXT, on_chip=False).bytes == cost.bytes + 12 * 2 * row
    assert program_cost(TEXT, loops=False).bytes == cost.bytes - loop_bytes * 11 / 12


def test_kernels_that_read_an_operand_again():
    text = """HloModule kernel

ENTRY %main (x: f32[4], y: f32[8]) -> f32[4] {
  %x = f32[4]{0} parameter(0)
  %y = f32[8]{0:S(1)} parameter(1)
  ROOT %call = f32[4]{0} custom-call(%x, %y), custom_call_target="tpu_custom_call"
}
"""
    assert program_cost(text).bytes == 32
    assert program_cost(text, kernels={((4,), (8,)): (1000, 70)}).bytes == 1032
    assert program_cost(text, kernels={((4,), (8,)): (1000, 70)}, on_chip=False).bytes == 1032 + 32 + 70


def test_a_collective_of_several_fusions_counts_once():
    """A TPU starts it in one fusion, continues it in others that compute, and ends it in the last."""
    fusions = "".join(
        f"""%part.{i} (x.{i}: f32[4]) -> f32[16] {{
  %x.{i} = f32[4]{{0}} parameter(0)
  ROOT %all.{i} = f32[16]{{0}} all-gather(%x.{i}), channel_id=3, replica_groups=[1,4]<=[4], dimensions={{0}}
}}

"""
        for i in range(3)
    )
    calls = "".join(
        f"  %use.{i} = f32[16]{{0}} fusion(%x), kind=kCustom, calls=%part.{i}\n" for i in range(3)
    )
    text = f"""HloModule fused

{fusions}ENTRY %main (x: f32[4]) -> f32[16] {{
  %x = f32[4]{{0}} parameter(0)
{calls}  ROOT %again = f32[16]{{0}} all-gather(%x), channel_id=4, replica_groups=[1,4]<=[4], dimensions={{0}}
}}
"""
    cost = program_cost(text)
    assert cost.collectives == {"all-gather": 2}
    assert cost.sent_bytes == 2 * 64 * 3 / 4


def test_the_source_of_traffic():
    by_files = {
        source.files: (moved, source.is_backward) for source, moved in program_cost(TEXT).by_source.items()
    }
    row = 4 * 8 * 128
    assert by_files[("/x/models/vit.py", "/x/train/losses.py")] == (12 * (2 * row + 4), True)
