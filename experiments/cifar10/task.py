"""The images and the model, as a comparison wants them."""

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from experiments.cifar10 import augmentation, data
from experiments.cifar10.config import Config, DatasetName, ModelName
from experiments.cifar10.model import CNN
from experiments.cifar10.resnet import ResNet20
from experiments.comparison.task import Dataset, Task

PIXEL_MAX: dict[DatasetName, int] = {"digits": 16, "cifar10": 255}  # scaled to 1
# Of the key of a step; the CNN's dropout folds the numbers of its layers into it.
_AUGMENTATION = 1000


def load(config: Config) -> Task:
    """Reads the images that the configuration names.

    Raises:
      DataError: if they are neither there nor to be had.
    """
    dataset = data.load(config.dataset, config.data_dir)
    pixel_max = PIXEL_MAX[config.dataset]
    return make_task(
        dataset,
        pixel_max,
        config.model,
        augment=config.augment,
        dtype=config.compute_dtype,
    )


def make_task(
    dataset: Dataset,
    pixel_max: int,
    model: ModelName = "cnn",
    *,
    augment: bool = False,
    dtype: DTypeLike | None = None,
) -> Task:
    """The model that fits the images.

    Args:
      dataset: images, integers of shape (n, height, width, channels).
      pixel_max: the pixel value that is scaled to 1.
      model: which one.
      augment: whether to crop and flip the images that are trained on.
      dtype: in which the model computes; None: in that of its parameters.

    Raises:
      ValueError: if the images' height or width is not divisible by 8, for the CNN.
    """
    image_shape = dataset.train_inputs.shape[1:]

    def make_model(rngs: nnx.Rngs) -> nnx.Module:
        if model == "resnet20":
            return ResNet20(image_shape[-1], dataset.classes, dtype, rngs=rngs)
        return CNN(image_shape, dataset.classes, dtype, rngs=rngs)

    def logits(
        network: nnx.Module, images: jax.Array, key: jax.Array | None
    ) -> jax.Array:
        if augment and key is not None:
            augmentation_key = jax.random.fold_in(key, _AUGMENTATION)
            images = augmentation.crop_and_flip(images, augmentation_key)
        pixels = images.astype(jnp.result_type(float)) / pixel_max
        if isinstance(network, ResNet20):
            return network(pixels, train=key is not None)
        assert isinstance(network, CNN)
        return network(pixels, key)

    return Task(dataset, make_model, logits)
