"""The convolution, compared with `jax.lax.conv_general_dilated` and its gradients."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from experiments.cifar10 import convolution, data
from experiments.cifar10.config import Flags, ImageTraining

# Arguments that Flax passes to a convolution of images.
OPTIONS = {
    "lhs_dilation": (1, 1),
    "rhs_dilation": (1, 1),
    "dimension_numbers": jax.lax.conv_dimension_numbers(
        (1, 1, 1, 1), (1, 1, 1, 1), ("NHWC", "HWIO", "NHWC")
    ),
    "feature_group_count": 1,
    "precision": None,
    "out_sharding": None,
}
# Relative to the largest value, as the same terms are summed in another order.
TOLERANCE = {"float32": 3e-6, "float64": 4e-15}
# One chunk, two and a remainder, less than one; the CNN's own channels; tiny images.
IMAGES = [(16, 8, 8, 5), (33, 4, 4, 5), (1, 4, 4, 5), (5, 32, 32, 3)]
TINY = [(33, 2, 2, 5), (5, 1, 4, 5)]


def _inputs(image_shape, dtype="float32", runs=()):
    random = np.random.default_rng(0)
    shapes = (*runs, *image_shape), (*runs, 3, 3, image_shape[-1], 32)
    return [jnp.asarray(random.normal(size=shape), dtype) for shape in shapes]


def _value_and_gradients(convolve):
    def function(x, kernel):
        def loss(x, kernel):
            y = convolve(x, kernel, (1, 1), "SAME", **OPTIONS)
            return jnp.sum(jnp.sin(y)), y

        (_, y), gradients = jax.value_and_grad(loss, (0, 1), has_aux=True)(x, kernel)
        return y, *gradients

    return function


ours = _value_and_gradients(convolution.convolve)
plain = jax.jit(_value_and_gradients(jax.lax.conv_general_dilated))


def _assert_close(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        assert a.dtype == b.dtype
        atol = TOLERANCE[b.dtype.name] * np.max(np.abs(b))
        np.testing.assert_allclose(a, b, rtol=0, atol=atol)


def _all_plain(function, *args):
    """Returns True if all lowered convolutions are NHWC and without groups."""
    lowered = jax.jit(function).lower(*args)
    convolutions = re.findall(r"stablehlo\.convolution.*", lowered.as_text())
    assert convolutions
    form = "[b, 0, 1, f]x[0, 1, i, o]->[b, 0, 1, f]"
    groups = "batch_group_count = 1 : i64, feature_group_count = 1 : i64"
    return all(form in line and groups in line for line in convolutions)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize(
    ("image_shape", "dtype"),
    [*((shape, "float64") for shape in IMAGES + TINY), (IMAGES[1], "float32")],
)
def test_value_and_gradients(image_shape, dtype):
    inputs = _inputs(image_shape, dtype)
    _assert_close(jax.jit(ours)(*inputs), plain(*inputs))


def test_bfloat16():
    """Compared with float32: sums over chunks, and the loss's input, are rounded."""
    rounded = _inputs((33, 6, 6, 5), "bfloat16")
    actual = jax.jit(ours)(*rounded)
    assert {a.dtype for a in actual} == {jnp.dtype("bfloat16")}
    expected = plain(*(a.astype(jnp.float32) for a in rounded))
    for a, b in zip(actual, expected, strict=True):
        error = np.max(np.abs(a.astype(jnp.float32) - b))
        assert error < 3e-2 * np.max(np.abs(b))


def test_without_jit():
    inputs = _inputs((1, 4, 4, 5))
    _assert_close(ours(*inputs), plain(*inputs))


@pytest.mark.parametrize("image_shape", [(17, 4, 4, 5), (17, 2, 2, 5)])
def test_vmap(image_shape):
    inputs = _inputs(image_shape, runs=(3,))
    runs = [plain(*run) for run in zip(*inputs, strict=True)]
    expected = [jnp.stack(parts) for parts in zip(*runs, strict=True)]
    _assert_close(jax.jit(jax.vmap(ours))(*inputs), expected)


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


def test_flax_passes_what_is_recognised_and_all_is_stated_plainly():
    """Plain convolutions are fast on CPU; JAX's own gradients are not plain."""

    def gradients(conv):
        layer = nnx.Conv(5, 7, (3, 3), conv_general_dilated=conv, rngs=nnx.Rngs(0))
        graphdef, params = nnx.split(layer)

        def loss(params, x):
            return jnp.sum(jnp.sin(nnx.merge(graphdef, params)(x)))

        return jax.grad(loss, (0, 1)), params, jnp.ones((33, 6, 6, 5))

    assert _all_plain(*gradients(convolution.convolve))
    assert not _all_plain(*gradients(jax.lax.conv_general_dilated))


@pytest.mark.parametrize(
    ("kernel_shape", "arguments", "options"),
    [
        ((1, 1, 4, 6), ((1, 1), "SAME"), {}),
        ((3, 1, 4, 6), ((1, 1), "SAME"), {}),
        ((3, 3, 4, 6), ((2, 2), "SAME"), {}),
        ((3, 3, 4, 6), ((1, 2), "SAME"), {}),
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
    inputs = jnp.ones((4, 2, 2, 4)), jnp.ones(kernel_shape)

    def jaxpr(convolve):
        def function(x, kernel):
            return convolve(x, kernel, *arguments, **(OPTIONS | options))

        return str(jax.make_jaxpr(function)(*inputs))

    assert jaxpr(convolution.convolve) == jaxpr(jax.lax.conv_general_dilated)


@pytest.mark.parametrize("model", ["cnn", "resnet20"])
@pytest.mark.parametrize(
    ("backend", "devices", "conv"),
    [
        ("cpu", 1, convolution.convolve),
        ("cpu", 8, jax.lax.conv_general_dilated),
        ("gpu", 1, jax.lax.conv_general_dilated),
    ],
)
def test_the_model_gets_it_where_one_cpu_device_trains(
    monkeypatch, model, backend, devices, conv
):
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    task = data.load(Flags(training=ImageTraining(model=model)))
    network = nnx.eval_shape(lambda: task.make_model(nnx.Rngs(0)))
    found = {
        module.conv_general_dilated
        for _, module in nnx.iter_modules(network)
        if isinstance(module, nnx.Conv)
    }
    assert found == {conv}
