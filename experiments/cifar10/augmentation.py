"""Images moved and mirrored at random, on the device."""

import jax
import jax.numpy as jnp

_MARGIN = 4  # pixels


def crop_and_flip(images: jax.Array, key: jax.Array) -> jax.Array:
    """Moves each image by up to 4 pixels, filling in black, and mirrors half of them.

    Images are (n, height, width, channels).
    """
    move_key, flip_key = jax.random.split(key)
    corners = jax.random.randint(move_key, (len(images), 2), 0, 2 * _MARGIN + 1)
    margin = ((0, 0), (_MARGIN, _MARGIN), (_MARGIN, _MARGIN), (0, 0))

    def crop(padded: jax.Array, corner: jax.Array) -> jax.Array:
        return jax.lax.dynamic_slice(padded, (*corner, 0), images.shape[1:])

    cropped = jax.vmap(crop)(jnp.pad(images, margin), corners)
    flip = jax.random.bernoulli(flip_key, shape=(len(images), 1, 1, 1))
    return jnp.where(flip, cropped[:, :, ::-1], cropped)
