"""The Python of docs/scaling.md on eight devices."""

import documents
import jax
import optax
import pytest
from flax import nnx

from benchmarks import collectives


@pytest.fixture(scope="module")
def names():
    """The namespace after the page's Python."""
    return documents.run(documents.DOCS / "scaling.md")


def test_recipe_keeps_its_state_in_place(names):
    assert names["mesh"].shape == {"data": 4, "model": 2}
    params = jax.tree.leaves_with_path(nnx.state(names["network"]))
    for name in ("mu", "nu"):
        moments = optax.tree.get(names["optimizer"].opt_state, name)
        for (path, param), moment in zip(params, jax.tree.leaves(moments), strict=True):
            assert moment.sharding.is_equivalent_to(param.sharding, param.ndim), path
            # One bias, of 64 numbers, is spread only over "data".
            pieces = 4 if param.shape == (64,) else 8
            sizes = {shard.data.size for shard in moment.addressable_shards}
            assert sizes == {param.size // pieces}, path


def test_recipe_has_nothing_whole_in_the_program_that_makes_it(names):
    with jax.set_mesh(names["mesh"]):
        program = names["create"].lower().compile().as_text()
    assert "[16,128]" in program  # a device's piece of a kernel
    assert "[64,256]" not in program
    assert "[256,64]" not in program
    assert collectives.of(program) == []


def test_state_without_flax_is_in_place(names):
    for name in ("mu", "nu"):
        moment = optax.tree.get(names["state"], name)["w"]
        assert moment.sharding.is_equivalent_to(names["weights"]["w"].sharding, 2)
        assert {shard.data.shape for shard in moment.addressable_shards} == {(16, 4)}
