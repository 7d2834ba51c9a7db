"""Against `jax.lax.conv_general_dilated` and the gradients that JAX derives for it."""

import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from made_up import CONVOLUTION_OPTIONS

from experiments.cifar10 import convolution

# Flax passes these two as well.
OPTIONS = CONVOLUTION_OPTIONS | {"precision": None, "out_sharding": None}
# Relative to the largest value, as the same terms are summed in another order.
TOLERANCE = {"float32": 3e-6, "float64": 4e-15}
# One chunk, two and a remainder, less than one; the CNN's own channels; tiny images.
IMAGES = [(16, 8, 8, 5), (33, 4, 4, 5), (1, 4, 4, 5), (5, 32, 32, 3)]
TINY = [(33, 2, 2, 5), (5, 1, 4, 5)]
# Also one that becomes tiny, and one whose size is odd, which is left to JAX.
STRIDED = [(33, 6, 8, 5), (5, 4, 2, 5), (5, 7, 8, 5)]


def _inputs(image_shape, dtype="float32", runs=()):
    random = np.random.default_rng(0)
    shapes = (*runs, *image_shape), (*runs, 3, 3, image_shape[-1], 32)
    return [jnp.asarray(random.normal(size=shape), dtype) for shape in shapes]


def _value_and_gradients(convolve, stride):
    def function(x, kernel):
        def loss(x, kernel):
            y = convolve(x, kernel, (stride, stride), "SAME", **OPTIONS)
            return jnp.sum(jnp.sin(y)), y

        (_, y), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, kernel)
        return y, *gradients

    return function


STRIDES = (1, 2)
OURS = {
    stride: _value_and_gradients(convolution.convolve, stride) for stride in STRIDES
}
PLAIN = {
    stride: jax.jit(_value_and_gradients(jax.lax.conv_general_dilated, stride))
    for stride in STRIDES
}
ours, plain = OURS[1], PLAIN[1]


def _plain_of_each(x, kernels, stride=1):
    """`PLAIN` of each run, stacked."""
    runs = [PLAIN[stride](*run) for run in zip(x, kernels, strict=True)]
    return [jnp.stack(parts) for parts in zip(*runs, strict=True)]


def _assert_close(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == b.dtype
        atol = TOLERANCE[b.dtype.name] * np.max(np.abs(b))
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def _all_plain(function, *args, platform="cpu"):
    """Whether all convolutions, as they are lowered, are of NHWC and without groups."""
    lowered = jax.jit(function).trace(*args).lower(lowering_platforms=(platform,))
    convolutions = re.findall(r"stablehlo\.convolution.*", lowered.as_text())
    assert convolutions
    form = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
    groups = "batch_group_count = 1 : i64, feature_group_count = 1 : i64"
    return all(form in line and groups in line for line in convolutions)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("image_shape", "stride"),
    [*((shape, 1) for shape in IMAGES + TINY), *((shape, 2) for shape in STRIDED)],
)
def test_value_and_gradients(image_shape, stride, dtype):
    inputs = _inputs(image_shape, dtype)
    _assert_close(jax.jit(OURS[stride])(*inputs), PLAIN[stride](*inputs))


@pytest.mark.parametrize("stride", STRIDES)
def test_bfloat16(stride):
    """Against float32: sums over chunks, and what the loss is of, are rounded."""
    rounded = _inputs((33, 6, 6, 5), "bfloat16")
    actual = jax.jit(OURS[stride])(*rounded)
    assert {a.dtype for a in actual} == {jnp.dtype("bfloat16")}
    expected = PLAIN[stride](*(a.astype(jnp.float32) for a in rounded))
    for a, b in zip(actual, expected, strict=True):
        error = np.max(np.abs(a.astype(jnp.float32) - b))
        assert error < 3e-2 * np.max(np.abs(b))


def test_without_jit():
    inputs = _inputs((1, 4, 4, 5))
    _assert_close(ours(*inputs), plain(*inputs))


@pytest.mark.parametrize(
    ("image_shape", "axes", "stride"),
    [
        ((33, 4, 4, 5), (0, 0), 1),
        ((33, 4, 4, 5), (0, None), 1),
        ((33, 4, 4, 5), (None, 0), 1),
        ((33, 2, 2, 5), (0, 0), 1),
        ((17, 6, 6, 5), (0, 0), 2),
        ((17, 6, 6, 5), (0, None), 2),
        ((17, 6, 6, 5), (None, 0), 2),
    ],
)
def test_vmap(image_shape, axes, stride):
    inputs = [
        a if axis == 0 else jnp.stack([a[0]] * 3)
        for a, axis in zip(_inputs(image_shape, runs=(3,)), axes, strict=True)
    ]
    unstacked = [a if axis == 0 else a[0] for a, axis in zip(inputs, axes, strict=True)]
    actual = jax.jit(jax.vmap(OURS[stride], axes))(*unstacked)
    _assert_close(actual, _plain_of_each(*inputs, stride))


def test_gradients_of_vmap():
    x, kernels = _inputs((5, 4, 4, 5), runs=(3,))

    def function(convolve):
        def one(x, kernel):
            return convolve(x, kernel, (1, 1), "SAME", **OPTIONS)

        def loss(x, kernels):
            return jnp.sum(jnp.sin(jax.vmap(one, (None, 0))(x, kernels)))

        return jax.jit(jax.grad(loss, (0, 1)))

    actual = function(convolution.convolve)(x[0], kernels)
    _assert_close(actual, function(jax.lax.conv_general_dilated)(x[0], kernels))


@pytest.mark.parametrize("stride", STRIDES)
def test_map(stride):
    inputs = _inputs((17, 6, 6, 5), runs=(3,))
    actual = jax.lax.map(lambda args: OURS[stride](*args), inputs)
    _assert_close(actual, _plain_of_each(*inputs, stride))


@pytest.mark.parametrize("stride", STRIDES)
def test_gradients_in_scan(stride):
    x, kernel = _inputs((33, 4, 4, 5))
    batches = jnp.stack([x, -x, 2 * x])

    def step(function, kernel, x):
        y, x_gradient, gradient = function(x, kernel)
        return kernel - 1e-3 * gradient, (y, x_gradient)

    actual = jax.lax.scan(functools.partial(step, OURS[stride]), kernel, batches)
    outs = []
    for batch in batches:
        kernel, out = step(PLAIN[stride], kernel, batch)
        outs.append(out)
    expected = [jnp.stack(parts) for parts in zip(*outs, strict=True)]
    _assert_close([actual[0], *actual[1]], [kernel, *expected])


def test_gradients_of_scan():
    x, kernel = _inputs((5, 4, 4, 32))

    def gradients(convolve):
        def loss(x, kernel):
            def step(x, _):
                y = convolve(x, kernel, (1, 1), "SAME", **OPTIONS)
                return jnp.tanh(y), None

            return jnp.sum(jax.lax.scan(step, x, length=2)[0] ** 2)

        return jax.jit(jax.grad(loss, (0, 1)))(x, 0.1 * kernel)

    actual = gradients(convolution.convolve)
    _assert_close(actual, gradients(jax.lax.conv_general_dilated))


@pytest.mark.parametrize("stride", STRIDES)
def test_all_are_stated_plainly_on_cpu_only(stride):
    """The form that stays fast on CPU wherever it is, and vmapped too."""
    ours, plain = OURS[stride], PLAIN[stride]
    inputs = _inputs((33, 6, 6, 5))
    assert _all_plain(ours, *inputs)
    assert not _all_plain(plain, *inputs)
    assert not _all_plain(ours, *inputs, platform="cuda")
    inputs = _inputs((33, 6, 6, 5), runs=(3,))
    assert _all_plain(jax.vmap(ours), *inputs)
    assert not _all_plain(jax.vmap(ours), *inputs, platform="cuda")


def test_flax_passes_what_is_recognised():
    layer = nnx.Conv(
        5,
        7,
        (3, 3),
        kernel_init=nnx.initializers.ones,
        conv_general_dilated=convolution.convolve,
        rngs=nnx.Rngs(0),
    )
    graphdef, params = nnx.split(layer)

    def loss(params, x):
        return jnp.sum(jnp.sin(nnx.merge(graphdef, params)(x)))

    assert _all_plain(jax.grad(loss, (0, 1)), params, jnp.ones((2, 4, 4, 5)))


@pytest.mark.parametrize(
    ("kernel_shape", "arguments", "options"),
    [
        ((1, 1, 4, 6), ((1, 1), "SAME"), {}),
        ((3, 1, 4, 6), ((1, 1), "SAME"), {}),
        ((5, 5, 4, 6), ((2, 2), "SAME"), {}),
        ((3, 3, 4, 6), ((3, 3), "SAME"), {}),
        ((3, 3, 4, 6), ((1, 2), "SAME"), {}),
        ((3, 3, 4, 6), ((2, 2), "VALID"), {}),
        ((3, 3, 4, 6), ((1, 1), "SAME_LOWER"), {}),
        ((3, 3, 4, 6), ((1, 1), ((2, 2), (2, 2))), {}),
        ((3, 3, 4, 6), ((1, 1), "SAME"), {"rhs_dilation": (2, 2)}),
        ((3, 3, 2, 6), ((1, 1), "SAME"), {"feature_group_count": 2}),
        ((3, 3, 4, 6), ((1, 1), "SAME"), {"batch_group_count": 2}),
        ((3, 3, 4, 6), ((1, 1), "SAME"), {"precision": jax.lax.Precision.HIGHEST}),
        ((3, 3, 4, 6), ((1, 1), "SAME"), {"preferred_element_type": jnp.float32}),
        (
            (3, 3, 6, 4),
            ((1, 1), "SAME"),
            {"dimension_numbers": ("NHWC", "HWOI", "NHWC")},
        ),
    ],
)
def test_any_other_convolution_is_left_to_jax(kernel_shape, arguments, options):
    inputs = jnp.ones((4, 2, 2, 4)), jnp.ones(kernel_shape)  # even

    def jaxpr(convolve):
        def function(x, kernel):
            return convolve(x, kernel, *arguments, **(OPTIONS | options))

        return str(jax.make_jaxpr(function)(*inputs))

    assert jaxpr(convolution.convolve) == jaxpr(jax.lax.conv_general_dilated)
