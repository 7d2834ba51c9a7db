"""`benchmarks.collectives` on programs whose exchanges are known."""

import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from benchmarks import collectives

MESH = jax.make_mesh((8,), ("all",), axis_types=(jax.sharding.AxisType.Auto,))


def _read(function, in_specs, out_specs, *arguments):
    mapped = jax.shard_map(
        function, mesh=MESH, in_specs=in_specs, out_specs=out_specs, check_vma=False
    )
    return collectives.of(jax.jit(mapped).lower(*arguments).compile().as_text())


@pytest.mark.parametrize(
    ("function", "in_spec", "out_spec", "expected"),
    [
        (lambda x: jax.lax.psum(x, "all"), P("all"), P(), ("all-reduce", 24)),
        (
            lambda x: jax.lax.all_gather(x, "all", tiled=True),
            P("all"),
            P(),
            ("all-gather", 192),
        ),
        (
            lambda x: jax.lax.psum_scatter(x, "all", tiled=True),
            P(),
            P("all"),
            ("reduce-scatter", 192),
        ),
        (
            lambda x: jax.lax.ppermute(x, "all", [(0, 1), (1, 0)]),
            P("all"),
            P("all"),
            ("collective-permute", 24),
        ),
        (
            lambda x: jax.lax.all_to_all(x, "all", 0, 0, tiled=True),
            P(),
            P("all"),
            ("all-to-all", 192),
        ),
    ],
    ids=["psum", "all_gather", "psum_scatter", "ppermute", "all_to_all"],
)
def test_each_operation_with_its_bytes(function, in_spec, out_spec, expected):
    x = jnp.ones((16, 3))  # 192 bytes, 24 on each device where it is sharded
    assert _read(function, in_spec, out_spec, x) == [expected]


def test_all_arrays_of_a_sum_count():
    arrays = (jnp.ones((16, 3)), jnp.ones(8, jnp.int8))
    found = _read(lambda *xs: jax.lax.psum(xs, "all"), P("all"), P(), *arrays)
    assert {operation for operation, _ in found} == {"all-reduce"}
    # XLA may sum small integers in 32 bits.
    assert sum(num_bytes for _, num_bytes in found) in {24 + 1, 24 + 4}


def test_what_the_compiler_puts_in_is_found():
    sharded, whole = NamedSharding(MESH, P("all")), NamedSharding(MESH, P())
    gather = jax.jit(lambda x: x + 1, in_shardings=sharded, out_shardings=whole)
    text = gather.lower(jnp.ones((16, 3))).compile().as_text()
    assert collectives.of(text) == [("all-gather", 192)]


def test_a_program_without_any():
    assert _read(lambda x: 2 * x, P("all"), P("all"), jnp.ones(8)) == []


# As XLA writes them for accelerators: nothing here compiles to these on a CPU.
ASYNCHRONOUS = """\
HloModule made_up

ENTRY %main (x: f32[2,3]) -> f32[16,3] {
  %x = f32[2,3]{1,0:T(8,128)} parameter(0)
  %y = bf16[4]{0} parameter(1)
  %gs = (f32[2,3]{1,0:T(8,128)}, f32[16,3]{1,0}) all-gather-start(%x), channel_id=1
  %gd = f32[16,3]{1,0} all-gather-done(%gs)
  %rs = (f32[2,3]{1,0}, bf16[4]{0}) all-reduce-start(%x, /*index=1*/%y), to_apply=%add
  %rd = (f32[2,3]{1,0}, bf16[4]{0}) all-reduce-done(%rs)
  %ps = (f32[2,3]{1,0}, f32[2,3]{1,0}) collective-permute-start(%x), channel_id=2
  %pd = f32[2,3]{1,0} collective-permute-done(%ps)
  %token = token[] after-all()
  %send = (f32[2,3]{1,0}, u32[], token[]) send(%x, %token), channel_id=3
  %sent = token[] send-done(%send), channel_id=3
  ROOT %copy = f32[16,3]{1,0} copy(%gd), metadata={op_name="all-reduce(x)"}
}
"""


# As XLA writes them for TPUs: a gather that begins, goes on and ends in three fusions,
# and a fusion that sums and scatters.
TPU = """\
HloModule made_up

%async_collective_start (x: bf16[2,3]) -> (bf16[2,3], bf16[16,3]) {
  %x = bf16[2,3]{1,0} parameter(0)
  %g.1 = bf16[16,3]{1,0:T(8,128)(2,1)} all-gather(%x), channel_id=5, dimensions={0}
  ROOT %call.1 = (bf16[2,3]{1,0}, bf16[16,3]{1,0:T(8,128)S(1)}) custom-call(%g.1)
}

%async_collective_fusion (y: bf16[2,3]) -> bf16[16,3] {
  %y = bf16[2,3]{1,0} parameter(0)
  ROOT %g.2 = bf16[16,3]{1,0:T(8,128)(2,1)} all-gather(%y), channel_id=5, dimensions={0}
}

%all-reduce-scatter.1 (input: f32[16,3]) -> f32[2,3] {
  %input = f32[16,3]{1,0:T(8,128)} parameter(0)
  %sum = f32[16,3]{1,0:T(8,128)} all-reduce(%input), channel_id=7, to_apply=%add
  ROOT %slice = f32[2,3]{1,0:T(8,128)} dynamic-slice(%sum, %index, %zero)
}

ENTRY %main (z: f32[16,3]) -> f32[2,3] {
  %z = f32[16,3]{1,0:T(8,128)} parameter(0)
  ROOT %fusion = f32[2,3]{1,0:T(8,128)} fusion(%z), calls=%all-reduce-scatter.1
}
"""


def test_those_of_tpus():
    assert collectives.of(TPU) == [("all-gather", 96), ("reduce-scatter", 192)]


def test_asynchronous_ones_count_where_they_start():
    found = collectives.of(ASYNCHRONOUS)
    assert found[:3] == [
        ("all-gather", 192),
        ("all-reduce", 32),
        ("collective-permute", 24),
    ]
    assert [operation for operation, _ in found[3:]] == ["send"]
