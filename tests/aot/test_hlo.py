"""Texts of compiled programs, in the TPU compiler's manner, read for messages and traffic."""

from memo_jax.aot import hlo

LOOP = """\
HloModule jit_step, is_scheduled=true

%add.1 (a.1: f32[], b.1: f32[]) -> f32[] {
  %a.1 = f32[]{:T(128)} parameter(0)
  %b.1 = f32[]{:T(128)} parameter(1)
  ROOT %s.1 = f32[]{:T(128)} add(%a.1, %b.1)
}

%body (p.1: (s32[], bf16[4,8])) -> (s32[], bf16[4,8]) {
  %p.1 = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %i.1 = s32[]{:T(128)} get-tuple-element(%p.1), index=0
  %x.1 = bf16[4,8]{1,0:T(8,128)(2,1)} get-tuple-element(%p.1), index=1
  %g.1 = bf16[16,8]{1,0:T(8,128)(2,1)} all-gather(%x.1), channel_id=1, replica_groups={{0,1,2,3}}, dimensions={0}
  %r.1 = (f32[32]{0:T(128)}, /*index=1*/f32[16]{0:T(128)}) all-reduce(%g.1, %g.1), replica_groups=[2,4]<=[8], to_apply=%add.1
  ROOT %t.1 = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}) tuple(%i.1, %x.1)
}

%condition (p.2: (s32[], bf16[4,8])) -> pred[] {
  %p.2 = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}) parameter(0)
  %n.2 = s32[]{:T(128)} constant(3)
  %i.2 = s32[]{:T(128)} get-tuple-element(%p.2), index=0
  ROOT %c.2 = pred[]{:T(512)} compare(%i.2, %n.2), direction=LT
}

ENTRY %main (x: bf16[4,8]) -> bf16[4,8] {
  %x = bf16[4,8]{1,0:T(8,128)(2,1)} parameter(0)
  %z = s32[]{:T(128)} constant(0)
  %t = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}) tuple(%z, %x)
  %w = (s32[]{:T(128)}, bf16[4,8]{1,0:T(8,128)(2,1)}) while(%t), condition=%condition, body=%body KNOWN
  %o = bf16[4,8]{1,0:T(8,128)(2,1)} get-tuple-element(%w), index=1
  %q = (bf16[4,8]{1,0}, bf16[4,8]{1,0}, u32[]{:S(2)}) collective-permute-start(%o), source_target_pairs={{0,1},{1,0}}
  %d = bf16[4,8]{1,0:T(8,128)(2,1)} collective-permute-done(%q)
  %one = bf16[4,8]{1,0} all-gather(%d), replica_groups=mesh['a'=1,'b'=8] {'a'}, dimensions={0}
  %rs = bf16[1,8]{1,0} reduce-scatter(%d), replica_groups=mesh['a'=2,'b'=4] {'b'}, dimensions={0}, to_apply=%add.1
  ROOT %y = bf16[4,8]{1,0:T(8,128)(2,1)} copy(%d)
}
"""  # noqa: E501
KNOWN = ', backend_config={"known_trip_count":{"n":"6"}}'

EACH = {
    ("collective-permute", 0): (1, 64.0),
    ("reduce-scatter", 4): (1, 64.0),
}


def test_messages_in_a_loop_count_as_often_as_it_runs():
    found = hlo.collectives(hlo.parse(LOOP.replace(" KNOWN", KNOWN)))
    assert found == {
        ("all-gather", 4): (6, 6 * 256.0),
        ("all-reduce", 4): (6, 6 * 192.0),
        **EACH,
    }


def test_a_loops_length_is_taken_from_its_condition_where_nothing_says_it():
    program = hlo.parse(LOOP.replace(" KNOWN", ""))
    assert hlo.collectives(program)["all-gather", 4] == (3, 3 * 256.0)
    assert program.uncounted_loops == 0


def test_a_loop_that_cannot_be_counted_is_told():
    text = LOOP.replace(" KNOWN", "").replace("constant(3)", "parameter(1)")
    program = hlo.parse(text)
    assert hlo.collectives(program)["all-gather", 4] == (1, 256.0)
    assert program.uncounted_loops == 1


TRAFFIC = """\
HloModule jit_f

%fused (p.0: f32[100,8], p.1: s32[]) -> f32[1,8] {
  %p.0 = f32[100,8]{1,0:T(8,128)} parameter(0)
  %p.1 = s32[]{:T(128)} parameter(1)
  ROOT %s = f32[1,8]{1,0:T(8,128)} dynamic-slice(%p.0, %p.1, %p.1), dynamic_slice_sizes={1,8}
}

ENTRY %main (a: f32[100,8], i: s32[]) -> f32[1,8] {
  %a = f32[100,8]{1,0:T(8,128)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  %f = f32[1,8]{1,0:T(8,128)} fusion(%a, %i), kind=kLoop, calls=%fused
  %v = f32[1,8]{1,0:T(8,128)S(1)} copy(%f)
  %b = f32[8]{0:T(128)} bitcast(%v)
  ROOT %c = f32[1,8]{1,0:T(8,128)} negate(%v)
}
"""


def test_traffic_is_what_operations_read_and_write_in_the_large_memory():
    # The fusion reads a row of its table, an index, and writes a row; the copy reads it into the
    # fast memory; the negation writes what it reads there.
    assert hlo.moved(hlo.parse(TRAFFIC)) == (32 + 4 + 32) + 32 + 32


DEEP = """\
HloModule jit_g

%inner (q.0: bf16[100,8], q.1: s32[]) -> f32[2,8] {
  %q.0 = bf16[100,8]{1,0:T(8,128)} parameter(0)
  %q.1 = s32[]{:T(128)} parameter(1)
  %wide = f32[100,8]{1,0:T(8,128)} convert(%q.0)
  ROOT %cut = f32[2,8]{1,0:T(8,128)} dynamic-slice(%wide, %q.1, %q.1), dynamic_slice_sizes={2,8}
}

%fused (p.0: bf16[100,8], p.1: s32[]) -> bf16[16] {
  %p.0 = bf16[100,8]{1,0:T(8,128)} parameter(0)
  %p.1 = s32[]{:T(128)} parameter(1)
  %rows = f32[2,8]{1,0:T(8,128)} fusion(%p.0, %p.1), kind=kLoop, calls=%inner
  %narrow = bf16[2,8]{1,0:T(8,128)} convert(%rows)
  ROOT %flat = bf16[16]{0:T(128)} bitcast(%narrow)
}

ENTRY %main (a: bf16[100,8], i: s32[]) -> bf16[16] {
  %a = bf16[100,8]{1,0:T(8,128)} parameter(0)
  %i = s32[]{:T(128)} parameter(1)
  %copied = (bf16[100,8]{1,0:T(8,128)S(1)}, bf16[100,8]{1,0:T(8,128)}, u32[]{:S(2)}) copy-start(%a)
  %near = bf16[100,8]{1,0:T(8,128)S(1)} copy-done(%copied)
  %part = ((bf16[100,8]{1,0:T(8,128)}), bf16[5,8]{1,0:T(8,128)S(1)}, s32[]{:S(2)}) slice-start(%a), slice={[0:5], [0:8]}
  %five = bf16[5,8]{1,0:T(8,128)S(1)} slice-done(%part)
  ROOT %f = bf16[16]{0:T(128)} fusion(%a, %i), kind=kOutput, calls=%fused
}
"""  # noqa: E501


def test_a_slice_deep_in_a_fusion_is_what_it_reads():
    # A table into the fast memory, five rows likewise; two rows and an index read, two written.
    assert hlo.moved(hlo.parse(DEEP)) == 1600 + 80 + (32 + 4) + 32
    both = DEEP.replace("convert(%rows)", "fusion(%rows, %p.0), kind=kLoop, calls=%other")
    assert hlo.moved(hlo.parse(both)) == 1600 + 80 + (1600 + 4) + 32  # and all of it, elsewhere


def test_the_largest_values_are_those_made_in_the_large_memory():
    # Not the table, which is given; not the slice within the fusion; not the copy in fast memory.
    assert hlo.largest(hlo.parse(TRAFFIC)) == [("f32[1,8]", 32.0)]
    wider = TRAFFIC.replace(
        "  %b =", "  %w = (f32[9,8]{1,0}, bf16[300]{0}) sort(%f, %f), calls=%fused\n  %b ="
    )
    found = hlo.largest(hlo.parse(wider), 2)
    assert found == [("bf16[300]", 600.0), ("f32[9,8]", 288.0)]


def test_what_has_a_number_for_every_pair_of_positions_is_found_within_fusions_too():
    program = hlo.parse(TRAFFIC)
    assert hlo.pairs(program, 64) == []
    for line, found in (
        ("  %w = f32[2,64,64]{2,1,0} add(%f, %f)\n", ["f32[2,64,64]"]),
        ("  %w = (f32[64,40]{1,0}, bf16[128,64]{1,0:S(1)}) sort(%f, %f)\n", ["bf16[128,64]"]),
        ("  %w = f32[64,65,1]{2,1,0} add(%f, %f)\n", []),
    ):
        for place in ("  %b =", "  ROOT %s ="):  # the entry, a fused computation
            assert place in TRAFFIC
            assert hlo.pairs(hlo.parse(TRAFFIC.replace(place, line + place)), 64) == found
