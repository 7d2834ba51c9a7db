"""Convolutions in a user's own `jax.shard_map`, which checks what varies."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P
from made_up import CONVOLUTION_OPTIONS

from experiments.cifar10.convolution import convolve

MESH = jax.make_mesh((2, 4), ("runs", "images"), axis_types=(AxisType.Auto,) * 2)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize(
    ("images", "kernels"),
    [(P(None, "images"), P()), (P(), P("runs")), (P("runs", "images"), P("runs"))],
    ids=["images", "kernels", "both"],
)
def test_gradients_are_those_of_one_device(images, kernels, stride):
    random = np.random.default_rng(0)
    x = jnp.asarray(random.normal(size=(2, 8, 6, 6, 5)), jnp.float32)
    kernel = jnp.asarray(random.normal(size=(2, 3, 3, 5, 7)), jnp.float32)

    def gradients(convolve, reduce=lambda loss: loss):
        def function(x, kernel):
            def loss(x, kernel):
                def one(x, kernel):
                    return convolve(
                        x, kernel, (stride, stride), "SAME", **CONVOLUTION_OPTIONS
                    )

                return reduce(jnp.sum(jnp.sin(jax.vmap(one)(x, kernel))))

            return jax.grad(loss, (0, 1))(x, kernel)

        return function

    def over_devices(loss):
        axes = {name for spec in (images, kernels) for name in spec if name}
        return jax.lax.psum(loss, tuple(axes))

    # What is not shared out is the same on all devices.
    sharded = jax.shard_map(
        gradients(convolve, over_devices),
        mesh=MESH,
        in_specs=(images, kernels),
        out_specs=(images, kernels),
    )
    if images == P():
        x = x[:1]
    actual = jax.jit(sharded)(x, kernel)
    plain = jax.jit(gradients(jax.lax.conv_general_dilated))
    expected = plain(jnp.broadcast_to(x, (2, *x.shape[1:])), kernel)
    if images == P():
        expected = (expected[0].sum(0, keepdims=True), expected[1])
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=3e-6 * np.max(np.abs(b)))
