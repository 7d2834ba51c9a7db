"""The images and the CNN, as a comparison wants them."""

import jax
import jax.numpy as jnp
from flax import nnx

from experiments.cifar10 import data
from experiments.cifar10.config import Config, DatasetName
from experiments.cifar10.model import CNN
from experiments.comparison.task import Dataset, Task

PIXEL_MAX: dict[DatasetName, int] = {"digits": 16, "cifar10": 255}  # scaled to 1


def load(config: Config) -> Task:
    """Reads the images that the configuration names.

    Raises:
      DataError: if they are neither there nor to be had.
    """
    dataset = data.load(config.dataset, config.data_dir)
    return make_task(dataset, PIXEL_MAX[config.dataset])


def make_task(dataset: Dataset, pixel_max: int) -> Task:
    """The CNN that fits the images.

    Args:
      dataset: images, integers of shape (n, height, width, channels).
      pixel_max: the pixel value that is scaled to 1.

    Raises:
      ValueError: if the images' height or width is not divisible by 8.
    """
    image_shape = dataset.train_inputs.shape[1:]

    def make_model(rngs: nnx.Rngs) -> CNN:
        return CNN(image_shape, dataset.classes, rngs=rngs)

    def logits(
        model: CNN, images: jax.Array, dropout_key: jax.Array | None
    ) -> jax.Array:
        return model(images.astype(jnp.float32) / pixel_max, dropout_key)

    return Task(dataset, make_model, logits)
