"""The images, and the model that learns them.

TFDS's own builder of CIFAR-10 needs TensorFlow to read the binary files and to encode
PNG. The builder here reads them with NumPy and passes PIL images, which TFDS encodes
itself. Name, version, features, checksum of the download and files are TFDS's own, so
each builder can use what the other has prepared as array_record. TFRecord needs
TensorFlow.
"""

import io
import itertools
import os
import pathlib
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import filelock
import jax
import jax.numpy as jnp
import numpy as np
import PIL.Image
import requests
import sklearn.datasets
import sklearn.model_selection
import tensorflow_datasets as tfds
from flax import nnx
from tensorflow_datasets.core import registered
from tensorflow_datasets.image_classification import cifar

from experiments.cifar10 import convolution
from experiments.cifar10.config import Flags, ImageTraining
from experiments.cifar10.model import CNN, ResNet20
from experiments.config import DataError, check
from experiments.train import Examples, Model, Task

# Folded into the key of a step; the CNN's dropout folds in the numbers of its layers.
_AUGMENTATION = 1000
SIZES = {"train": 50_000, "test": 10_000}  # images of CIFAR-10
_RECORD_BYTES = 1 + 3 * 32 * 32  # label, then red, green and blue planes
_MARGIN = 4  # pixels by which images move at most
_CONNECT_SECONDS = 10.0  # without a network, TFDS itself retries for minutes


class Images(NamedTuple):
    """Images, uint8 of shape (n, height, width, channels), with int32 labels."""

    train: Examples
    test: Examples
    pixel_max: int  # is scaled to 1
    description: str  # for reports


def load(flags: Flags) -> Task:
    """Reads the images that the flags name, for their model."""
    digits = flags.training.dataset == "digits"
    images = load_digits() if digits else load_cifar10(flags.session.data_dir)
    one_cpu = jax.default_backend() == "cpu" and jax.device_count() == 1
    conv = convolution.convolve if one_cpu else jax.lax.conv_general_dilated
    return make_task(images, flags.training, conv=conv)


def make_task(
    images: Images,
    training: ImageTraining,
    *,
    classes: int = Flags.classes,
    conv: Callable[..., jax.Array] = jax.lax.conv_general_dilated,
) -> Task:
    """The task: images, and the model that `training` names."""
    shape, dtype = images.train.inputs.shape[1:], training.compute_dtype

    def make_model(rngs: nnx.Rngs) -> CNN | ResNet20:
        if training.model == "cnn":
            return CNN(shape, classes, dtype, conv=conv, rngs=rngs)
        return ResNet20(shape[-1], classes, dtype, conv=conv, rngs=rngs)

    def logits(model: Model, inputs: jax.Array, key: jax.Array | None) -> jax.Array:
        if training.augment and key is not None:
            moving = jax.random.fold_in(key, _AUGMENTATION)
            inputs = crop_and_flip(inputs, moving)
        pixels = inputs.astype(jnp.result_type(float)) / images.pixel_max
        result: jax.Array = model(pixels, key)
        return result

    return Task(images.train, images.test, make_model, logits, images.description)


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


def load_digits() -> Images:
    """scikit-learn's 1,797 handwritten digits at 8x8, in a fixed stratified split."""
    digits = sklearn.datasets.load_digits()
    *images, train_labels, test_labels = sklearn.model_selection.train_test_split(
        digits.images.astype(np.uint8)[..., np.newaxis],
        digits.target.astype(np.int32),
        train_size=1437,
        stratify=digits.target,
        random_state=0,
    )
    return Images(
        Examples(images[0], train_labels),
        Examples(images[1], test_labels),
        pixel_max=16,
        description="scikit-learn's bundled handwritten digits, 8x8",
    )


def load_cifar10(data_dir: pathlib.Path | None) -> Images:
    """Reads CIFAR-10; downloads and prepares it if it is missing.

    The directory is TFDS's; None means `$TFDS_DATA_DIR`, or TFDS's default.
    """
    given = data_dir or os.environ.get("TFDS_DATA_DIR") or tfds.core.constants.DATA_DIR
    directory = pathlib.Path(os.path.expanduser(given))
    known = not str(directory).startswith("~")
    check("data_dir", str(given), "a directory, not of an unknown user", known)
    try:
        builder = _prepared_builder(directory)
        (train, _), (test, encoding) = (_read_split(builder, part) for part in SIZES)
    except requests.RequestException as error:
        raise DataError(
            f"CIFAR-10 is not in {directory} (looked for cifar10/{Cifar10.VERSION} "
            f"there), and cannot be downloaded ({type(error).__name__}: {error}). "
            "Either name the TensorFlow Datasets directory that holds it: --dataset "
            "cifar10 --data-dir DIR; or run the same command where there is a network, "
            "and copy that directory here; or train on the data that is always there: "
            "--dataset digits."
        ) from error
    # TFDS and array_record raise many kinds of errors: for damaged files, another
    # format, a full disk, ...
    except Exception as error:
        path = directory / "cifar10" / str(Cifar10.VERSION)
        raise DataError(
            f"CIFAR-10 in {path} cannot be prepared or read: {error}. Name another "
            "directory, --data-dir DIR, or delete that one to have it prepared again; "
            "only array_record is read without TensorFlow."
        ) from error
    if encoding == "JPEG":
        encoding += (
            ", re-encoded with loss: accuracies run a little below published ones"
        )
    stored = f"CIFAR-10, 32x32, from TensorFlow Datasets (stored as {encoding})"
    return Images(train, test, 255, stored)


with registered.skip_registration():  # TFDS has a "cifar10" already

    class Cifar10(cifar.Cifar10):  # type: ignore[misc]
        """TFDS's CIFAR-10, prepared without TensorFlow."""

        url_infos = cifar.Cifar10.url_infos  # the download is verified against these

        def _generate_examples(
            self, split_prefix: str, filepaths: Iterable[str]
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            index = itertools.count()
            for path in map(pathlib.Path, filepaths):
                content = np.fromfile(path, np.uint8)
                if content.size % _RECORD_BYTES:
                    raise ValueError(f"{path} is damaged; delete {path.parents[1]}")
                for record in content.reshape(-1, _RECORD_BYTES):
                    number, planes = next(index), record[1:].reshape(3, 32, 32)
                    example = {
                        "id": f"{split_prefix}{number:05d}",
                        "image": PIL.Image.fromarray(planes.transpose(1, 2, 0)),
                        "label": int(record[0]),
                    }
                    yield number, example


def _prepared_builder(directory: pathlib.Path) -> tfds.core.DatasetBuilder:
    """TFDS's builder, after downloading and preparing what is missing."""
    builder = Cifar10(data_dir=directory, file_format="array_record")
    if builder.is_prepared():
        return builder
    url = builder._cifar_info.url
    archive = pathlib.PurePosixPath(url).name.removesuffix(".tar.gz")
    # TFDS uses what an earlier attempt has downloaded.
    if not any((directory / "downloads").rglob(f"*{archive}*.tar.gz")):
        requests.head(url, timeout=_CONNECT_SECONDS).raise_for_status()
    directory.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(directory / ".cifar10.lock"):  # one process prepares
        builder = Cifar10(data_dir=directory, file_format="array_record")
        config = tfds.download.DownloadConfig(try_download_gcs=False)
        builder.download_and_prepare(download_config=config)  # unless it is there now
    return builder


def _read_split(
    builder: tfds.core.DatasetBuilder, split: str
) -> tuple[Examples, str | None]:
    """One split, in the order stored, and the images' encoding: PNG or JPEG."""
    # PIL decodes, whatever else is installed: the same pixels everywhere.
    decoders = {"image": tfds.decode.SkipDecoding()}
    source = builder.as_data_source(split=split, decoders=decoders)
    records = source.__getitems__(range(len(source)))
    images = [PIL.Image.open(io.BytesIO(record["image"])) for record in records]
    pixels = np.stack([np.asarray(image, np.uint8) for image in images])
    labels = np.array([record["label"] for record in records], np.int32)
    # TFDS would also accept another split's file, or one with fewer images.
    ids = sorted(record["id"].decode() for record in records)
    if ids != [f"{split}_{index:05d}" for index in range(SIZES[split])]:
        raise ValueError(
            f"its split {split!r} has {len(ids)} images, {ids[0]} to {ids[-1]}, "
            f"instead of all {SIZES[split]}, each once"
        )
    if labels.min() < 0 or labels.max() >= Flags.classes:
        found = f"in [{labels.min()}, {labels.max()}]"
        raise ValueError(f"its split {split!r} has labels {found}, not in [0, 9]")
    return Examples(pixels, labels), images[0].format
