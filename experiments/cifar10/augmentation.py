"""Images moved and mirrored at random, on the device."""

import jax
import jax.numpy as jnp

MARGIN = 4  # pixels


def crop_and_flip(images: jax.Array, key: jax.Array) -> jax.Array:
    """Moves each image by up to 4 pixels, black coming in, and mirrors half of them.

    Args:
      images: (n, height, width, channels).
      key: fixes what happens to which image.

    Returns:
      Images of the same shape and dtype.
    """
    n, height, width, channels = images.shape
    move_key, flip_key = jax.random.split(key)
    margin = ((0, 0), (MARGIN, MARGIN), (MARGIN, MARGIN), (0, 0))
    corners = jax.random.randint(move_key, (n, 2), 0, 2 * MARGIN + 1)

    def crop(image: jax.Array, corner: jax.Array) -> jax.Array:
        start = (corner[0], corner[1], 0)
        return jax.lax.dynamic_slice(image, start, (height, width, channels))

    cropped = jax.vmap(crop)(jnp.pad(images, margin), corners)
    flip = jax.random.bernoulli(flip_key, shape=(n, 1, 1, 1))
    return jnp.where(flip, cropped[:, :, ::-1], cropped)
