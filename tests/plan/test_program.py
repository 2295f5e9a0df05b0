"""Programs read from their text, compared with counts by hand."""

import pytest

from kdjax.plan.hlo import arrays, parse
from kdjax.plan.program import COLLECTIVES, read, trip_count

# A loop of four iterations with an inner loop of three iterations, and the code around it.
LOOPS = """\
HloModule jit_run, is_scheduled=true

FileNames
1 "/checkout/kdjax/models/layers.py"
2 "/usr/lib/site-packages/optax/chain.py"

FunctionNames
1 "f"

FileLocations
1 {file_name_id=1 function_name_id=1 line=12 end_line=12 column=1 end_column=2}
2 {file_name_id=2 function_name_id=1 line=34 end_line=34 column=1 end_column=2}

StackFrames
1 {file_location_id=1 parent_frame_id=1}
2 {file_location_id=2 parent_frame_id=2}

%fused_step (p: f32[100,8], i: s32[]) -> f32[1,8] {
  %p = f32[100,8]{1,0} parameter(0)
  %i = s32[] parameter(1)
  %zero = s32[] constant(0)
  ROOT %cut = f32[1,8]{1,0} dynamic-slice(%p, %i, %zero), dynamic_slice_sizes={1,8}
}

%fused_store (p.1: f32[100,8], u: f32[1,8], i.1: s32[]) -> f32[100,8] {
  %p.1 = f32[100,8]{1,0} parameter(0)
  %u = f32[1,8]{1,0} parameter(1)
  %i.1 = s32[] parameter(2)
  %zero.1 = s32[] constant(0)
  ROOT %put = f32[100,8]{1,0} dynamic-update-slice(%p.1, %u, %i.1, %zero.1)
}

%inner_body (a: (s32[], f32[1,8])) -> (s32[], f32[1,8]) {
  %a = (s32[], f32[1,8]{1,0}) parameter(0)
  %n = s32[] get-tuple-element(%a), index=0
  %v = f32[1,8]{1,0} get-tuple-element(%a), index=1
  %w = f32[1,8]{1,0} add(%v, %v)
  ROOT %t = (s32[], f32[1,8]{1,0}) tuple(%n, %w)
}

%inner_condition (b: (s32[], f32[1,8])) -> pred[] {
  %b = (s32[], f32[1,8]{1,0}) parameter(0)
  %m = s32[] get-tuple-element(%b), index=0
  %three = s32[] constant(3)
  ROOT %less = pred[] compare(%m, %three), direction=LT
}

%body (c: (s32[], f32[100,8])) -> (s32[], f32[100,8]) {
  %c = (s32[], f32[100,8]{1,0}) parameter(0)
  %k = s32[] get-tuple-element(%c), index=0
  %x = f32[100,8]{1,0} get-tuple-element(%c), index=1
  %step = f32[1,8]{1,0} fusion(%x, %k), kind=kLoop, calls=%fused_step
  %pair = (s32[], f32[1,8]{1,0}) tuple(%k, %step)
  %while.1 = (s32[], f32[1,8]{1,0}) while(%pair), condition=%inner_condition, body=%inner_body
  %out = f32[1,8]{1,0} get-tuple-element(%while.1), index=1
  %store = f32[100,8]{1,0} fusion(%x, %out, %k), kind=kLoop, calls=%fused_store
  ROOT %t.1 = (s32[], f32[100,8]{1,0}) tuple(%k, %store)
}

%condition (d: (s32[], f32[100,8])) -> pred[] {
  %d = (s32[], f32[100,8]{1,0}) parameter(0)
  ROOT %go = pred[] custom-call(%d), custom_call_target="ask"
}

ENTRY %main (z: f32[100,8]) -> f32[8,100] {
  %z = f32[100,8]{1,0} parameter(0)
  %start = s32[] constant(0)
  %copy.1 = f32[100,8]{1,0} copy(%z), metadata={op_name="jit(run)/copy" stack_frame_id=2}
  %t.2 = (s32[], f32[100,8]{1,0}) tuple(%start, %copy.1)
  %while.2 = (s32[], f32[100,8]{1,0}) while(%t.2), condition=%condition, body=%body, \
backend_config={"known_trip_count":{"n":"4"}}
  %y = f32[100,8]{1,0} get-tuple-element(%while.2), index=1
  ROOT %turned = f32[8,100]{1,0} transpose(%y), dimensions={1,0}
}
"""
WHOLE, ROW, NUMBER = 3200, 32, 4


@pytest.fixture(scope="module")
def loops():
    return {kernel.name: kernel for kernel in read(LOOPS, "gpu").kernels}


def test_loops_are_multiplied_out(loops):
    times = {name: kernel.times for name, kernel in loops.items()}
    # The limit of the inner loop is found only in its condition.
    assert times == {"copy.1": 1, "step": 4, "w": 12, "store": 4, "turned": 1}


def test_a_loop_without_a_limit_counts_once_and_is_reported():
    text = LOOPS.replace(', backend_config={"known_trip_count":{"n":"4"}}', "")
    program = read(text, "gpu")
    assert program.uncounted_loops == 1
    assert {kernel.name: kernel.times for kernel in program.kernels}["w"] == 3
    greater = read(LOOPS.replace("direction=LT", "direction=GT"), "gpu")
    assert greater.uncounted_loops == 1


def test_parts_of_arrays_count_as_parts(loops):
    moved = {name: kernel.bytes for name, kernel in loops.items()}
    assert moved == {
        "copy.1": 2 * WHOLE,
        "step": ROW + ROW + NUMBER,  # Reads a row, writes a row, reads its index.
        "w": 3 * ROW,
        "store": ROW + ROW + NUMBER,  # The array is updated in place.
        "turned": 2 * WHOLE,
    }


def test_what_computes_nothing_is_named_with_its_line(loops):
    assert {name: kernel.kind for name, kernel in loops.items()} == {
        "copy.1": "copy",
        "step": "other",
        "w": "other",
        "store": "other",
        "turned": "transpose",
    }
    # The innermost line is in optax, but the nearest line of kdjax is the one that can be changed.
    assert loops["copy.1"].source == "kdjax/models/layers.py:12"
    assert loops["turned"].source == "the compiler's own"


def test_lines_of_other_packages_and_of_older_programs():
    text = LOOPS.replace("/checkout/kdjax/models/layers.py", "/usr/lib/site-packages/jax/nn.py")
    kernels = {kernel.name: kernel for kernel in read(text, "gpu").kernels}
    assert kernels["copy.1"].source == "optax/chain.py:34"
    text = LOOPS.replace("stack_frame_id=2", 'source_file="/x/kdjax/costs.py" source_line=7')
    kernels = {kernel.name: kernel for kernel in read(text, "gpu").kernels}
    assert kernels["copy.1"].source == "kdjax/costs.py:7"


def test_the_dearer_branch_counts():
    text = """\
%small (p: f32[4]) -> f32[4] {
  %p = f32[4]{0} parameter(0)
  ROOT %a = f32[4]{0} negate(%p)
}

%large (q: f32[4]) -> f32[4] {
  %q = f32[4]{0} parameter(0)
  %b = f32[4]{0} negate(%q)
  ROOT %c = f32[4]{0} add(%b, %q)
}

ENTRY %main (which: s32[], x: f32[4]) -> f32[4] {
  %which = s32[] parameter(0)
  %x = f32[4]{0} parameter(1)
  ROOT %either = f32[4]{0} conditional(%which, %x, %x), branch_computations={%small, %large}
}
"""
    assert sorted(kernel.name for kernel in read(text, "gpu").kernels) == ["b", "c"]


def program_of(lines, result="f32[4]{0} copy(%x)"):
    return f"ENTRY %main (x: f32[4]) -> f32[4] {{\n{lines}\n  ROOT %r = {result}\n}}\n"


CONVOLUTIONS = {
    # 64 images of 32 x 32, 3x3, 16 channels to 32: 2 * 64*32*32 * 9 * 16 * 32 = 603,979,776.
    "forward": """\
  %x = bf16[64,32,32,16]{3,2,1,0} parameter(0)
  %k = bf16[32,3,3,16]{3,2,1,0} parameter(1)
  %r = (bf16[64,32,32,32]{3,2,1,0}, u8[0]{0}) custom-call(%x, %k), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convForward"
""",
    "input": """\
  %g = bf16[64,32,32,32]{3,2,1,0} parameter(0)
  %k = bf16[32,3,3,16]{3,2,1,0} parameter(1)
  %r = (bf16[64,32,32,16]{3,2,1,0}, u8[0]{0}) custom-call(%g, %k), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardInput"
""",
    "filter": """\
  %x = bf16[64,32,32,16]{3,2,1,0} parameter(0)
  %g = bf16[64,32,32,32]{3,2,1,0} parameter(1)
  %r = (bf16[32,3,3,16]{3,2,1,0}, u8[0]{0}) custom-call(%x, %g), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_o01i->b01f, custom_call_target="__cudnn$convBackwardFilter"
""",
    "hlo": """\
  %x = bf16[64,32,32,16]{3,2,1,0} parameter(0)
  %k = bf16[3,3,16,32]{3,2,1,0} parameter(1)
  %r = bf16[64,32,32,32]{3,2,1,0} convolution(%x, %k), window={size=3x3 pad=1_1x1_1}, \
dim_labels=b01f_01io->b01f
""",
    # The kernel's gradient is a convolution with a window of the whole map, and batch is 'i'.
    "hlo_filter": """\
  %x = bf16[64,32,32,16]{3,2,1,0} parameter(0)
  %g = bf16[64,32,32,32]{3,2,1,0} parameter(1)
  %r = bf16[3,3,16,32]{3,2,1,0} convolution(%x, %g), window={size=32x32 pad=1_1x1_1}, \
dim_labels=f01b_i01o->01bf
""",
}


@pytest.mark.parametrize("name", CONVOLUTIONS)
def test_convolutions_and_their_derivatives_cost_the_same(name):
    (kernel,) = read(f"ENTRY %m (a: f32[]) -> f32[] {{\n{CONVOLUTIONS[name]}}}\n", "gpu").kernels
    assert kernel.kind == "convolution"
    assert kernel.operations == 603_979_776
    channels = (64, 32) if name == "hlo_filter" else (16, 32)
    assert kernel.products[0][1:] == channels


def test_a_strided_convolution_s_gradient_skips_the_zeros_between():
    text = CONVOLUTIONS["hlo"].replace("pad=1_1x1_1}", "pad=1_1x1_1 lhs_dilate=2x2}")
    (kernel,) = read(f"ENTRY %m (a: f32[]) -> f32[] {{\n{text}}}\n", "gpu").kernels
    assert kernel.operations == 603_979_776 / 4


@pytest.mark.parametrize(
    "line",
    [
        "%r = f32[64,10]{1,0} dot(%x, %k), lhs_contracting_dims={1}, rhs_contracting_dims={0}",
        '%r = (f32[64,10]{1,0}, s8[0]{0}) custom-call(%x, %k), custom_call_target="__cublas$gemm", '
        'backend_config={"gemm":{"lhs_contracting_dimensions":["1"]}}',
    ],
)
def test_matrix_products(line):
    text = f"  %x = f32[64,16]{{1,0}} parameter(0)\n  %k = f32[16,10]{{1,0}} parameter(1)\n  {line}"
    (kernel,) = read(f"ENTRY %m (a: f32[]) -> f32[] {{\n{text}\n}}\n", "gpu").kernels
    assert (kernel.kind, kernel.products) == ("product", ((2.0 * 64 * 16 * 10, 16, 10),))


@pytest.mark.parametrize("collective", COLLECTIVES)
def test_a_collective_is_its_start(collective):
    text = program_of(
        "  %x = f32[4]{0} parameter(0)\n"
        f"  %s = f32[4]{{0}} {collective}-start(%x), replica_groups={{{{0,1}}}}, to_apply=%add\n"
        f"  %d = f32[4]{{0}} {collective}-done(%s)"
    )
    kernels = {kernel.name: kernel for kernel in read(text, "gpu").kernels}
    assert kernels.keys() == {"s", "r"}
    started = kernels["s"]
    assert (started.kind, started.collective, started.bytes) == ("collective", collective, 16)


@pytest.mark.parametrize(
    ("text", "size", "space"),
    [
        ("f32[10,3]{1,0}", 120, 0),
        ("bf16[]", 2, 0),
        ("pred[7]{0}", 7, 0),
        # Padded to tiles of 8 x 128.
        ("f32[10,3]{1,0:T(8,128)}", 16 * 128 * 4, 0),
        # The tile covers the two fastest dimensions, here dimensions 3 and 0.
        ("bf16[3,5,5,200]{0,3,2,1:T(8,128)(2,1)S(1)}", 5 * 5 * 200 * 128 * 2, 1),
        ("f32[5]{0:T(8,128)}", 8 * 128 * 4, 0),
        ("s4[8]{0}", 4, 0),
    ],
)
def test_bytes_of_arrays(text, size, space):
    (array,) = arrays(text)
    assert (array.bytes, array.space) == (size, space)


def test_arrays_on_the_chip_of_a_tpu_move_no_bytes():
    text = program_of(
        "  %x = f32[4]{0} parameter(0)\n"
        "  %near = (f32[4]{0:T(128)S(1)}, f32[4]{0:T(128)}, u32[]{:S(2)}) copy-start(%x)\n"
        "  %y = f32[4]{0:T(128)S(1)} copy-done(%near)",
        "f32[4]{0:T(128)S(1)} negate(%y), "
        'backend_config={"window_config":{"estimated_cycles":"1839"}}',
    )
    kernels = {kernel.name: kernel for kernel in read(text, "tpu").kernels}
    assert (kernels["near"].kind, kernels["near"].bytes) == ("prefetch", 16)
    assert (kernels["r"].bytes, kernels["r"].cycles) == (0, 1839)
    # The numbers of memory spaces have no meaning for another compiler.
    assert {kernel.name: kernel for kernel in read(text, "gpu").kernels}["r"].bytes == 1024


def test_a_text_without_a_program_is_refused():
    with pytest.raises(ValueError, match="not an XLA program"):
        parse("HloModule nothing\n")


def test_a_condition_in_a_fusion_is_understood():
    text = """\
%compare (p: s32[]) -> pred[] {
  %p = s32[] parameter(0)
  %c = s32[] constant(23)
  ROOT %less = pred[] compare(%p, %c), direction=LT
}

%condition (a: s32[]) -> pred[] {
  %a = s32[] parameter(0)
  ROOT %go = pred[] fusion(%a), kind=kLoop, calls=%compare
}

ENTRY %main (x: s32[]) -> s32[] {
  %x = s32[] parameter(0)
  ROOT %loop = s32[] while(%x), condition=%condition, body=%condition
}
"""
    module = parse(text)
    assert trip_count(module, module.computations["main"].instructions["loop"]) == 23
