"""CIFAR-10 through TensorFlow Datasets, read and prepared without TensorFlow.

TFDS's own builder reads the binary files, and encodes arrays to PNG, with TensorFlow.
The one here reads them with NumPy and hands over PIL images, which TFDS encodes itself;
name, version, features, checksum of the download and files written are TFDS's own, so
either finds what the other has prepared (as array_record; TFRecord needs TensorFlow).
"""

import io
import os
import pathlib
from collections.abc import Iterable, Iterator
from typing import Any, Literal, NamedTuple

import filelock
import numpy as np
import numpy.typing as npt
import PIL.Image
import requests
import tensorflow_datasets as tfds
from tensorflow_datasets.core import registered
from tensorflow_datasets.image_classification import cifar

from experiments.comparison import processes
from experiments.comparison.config import DataError

_RECORD_BYTES = 1 + 3 * 32 * 32  # label, then red, green and blue planes
_CONNECT_SECONDS = 10.0  # TFDS itself retries for minutes where there is no network


class Split(NamedTuple):
    """One split's images and labels, in the order stored."""

    images: npt.NDArray[np.uint8]  # (n, 32, 32, 3)
    labels: npt.NDArray[np.int32]  # (n,)
    encoding: str  # of the stored images: PNG, or JPEG


with registered.skip_registration():  # TFDS has a "cifar10" already

    class Cifar10(cifar.Cifar10):  # type: ignore[misc]
        """TFDS's CIFAR-10, prepared without TensorFlow."""

        url_infos = cifar.Cifar10.url_infos  # the download is verified against these

        def _generate_examples(
            self, split_prefix: str, filepaths: Iterable[str]
        ) -> Iterator[tuple[int, dict[str, Any]]]:
            index = 0
            for path in filepaths:
                for record in _read_records(path):
                    planes = record[1:].reshape(3, 32, 32)
                    image = np.ascontiguousarray(planes.transpose(1, 2, 0))
                    yield (
                        index,
                        {
                            "id": f"{split_prefix}{index:05d}",
                            "image": PIL.Image.fromarray(image),
                            "label": int(record[0]),
                        },
                    )
                    index += 1


def _read_records(path: str) -> npt.NDArray[np.uint8]:
    """A CIFAR-10 binary file as (n, 3073) bytes."""
    content = np.fromfile(path, np.uint8)
    if not content.size or content.size % _RECORD_BYTES:
        raise DataError(
            f"{path} is damaged: {content.size} bytes are not a whole number of "
            f"records of {_RECORD_BYTES}. Delete {pathlib.Path(path).parents[1]}, to "
            "have the archive extracted anew, and run the command again."
        )
    return content.reshape(-1, _RECORD_BYTES)


def prepared_builder(data_dir: pathlib.Path | None) -> tfds.core.DatasetBuilder:
    """TFDS's builder for CIFAR-10, which is downloaded and prepared if it is not there.

    Args:
      data_dir: the TFDS directory; None for `$TFDS_DATA_DIR` or TFDS's default.

    Returns:
      A builder whose splits can be read.

    Raises:
      DataError: if there is nothing to read and nowhere to download from, or
        what is there needs TensorFlow to be read.
    """
    directory = (
        data_dir or os.environ.get("TFDS_DATA_DIR") or tfds.core.constants.DATA_DIR
    )
    directory = pathlib.Path(directory).expanduser()
    builder = _builder(directory)
    if builder.is_prepared():
        return builder
    _check_download(builder._cifar_info.url, directory)
    try:
        directory.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(directory / ".cifar10.lock"):  # one process prepares
            builder = _builder(directory)
            if not builder.is_prepared():
                builder.download_and_prepare(
                    download_config=tfds.download.DownloadConfig(try_download_gcs=False)
                )
    except DataError:
        raise
    # A download that broke off or has another checksum, a full disk, ...
    except Exception as error:
        raise DataError(
            f"Preparing CIFAR-10 in {directory} failed: {error}. Run the command "
            "again, or name a directory that holds it: --data-dir DIR."
        ) from error
    return builder


def _builder(directory: pathlib.Path) -> tfds.core.DatasetBuilder:
    try:
        return Cifar10(data_dir=directory, file_format="array_record")
    except ValueError as error:  # TFDS refuses another format than the one it finds
        raise DataError(
            f"CIFAR-10 in {directory} is not stored as array_record, the one format "
            "that is read without TensorFlow. Name another directory, where it will "
            f"be prepared anew: --data-dir DIR. TFDS says: {error}"
        ) from error


def _check_download(url: str, directory: pathlib.Path) -> None:
    """Refuses to download where the server cannot be reached."""
    archive = pathlib.PurePosixPath(url).name.removesuffix(".tar.gz")
    if any((directory / "downloads").rglob(f"*{archive}*.tar.gz")):
        return  # TFDS takes what an earlier attempt has downloaded
    try:
        requests.head(url, timeout=_CONNECT_SECONDS).raise_for_status()
    except requests.RequestException as error:
        raise DataError(
            f"CIFAR-10 is not in {directory} (looked for cifar10/{Cifar10.VERSION} "
            f"there), and {url} cannot be reached to download it "
            f"({type(error).__name__}). Either name the TensorFlow Datasets directory "
            "that holds it: --dataset cifar10 --data-dir DIR; or run the same command "
            "where there is a network, and copy that directory here; or train on the "
            "data that is always there: --dataset digits."
        ) from error


def read_split(
    builder: tfds.core.DatasetBuilder, split: Literal["train", "test"]
) -> Split:
    """Reads one split of a prepared builder; each process decodes its share.

    Raises:
      DataError: if the files are damaged.
    """
    # PIL decodes, whatever else is installed: the same pixels everywhere.
    decoders = {"image": tfds.decode.SkipDecoding()}
    try:
        source = builder.as_data_source(split=split, decoders=decoders)
        examples = [source[index] for index in processes.share(len(source))]
        images = [PIL.Image.open(io.BytesIO(example["image"])) for example in examples]
        encoding = str(images[0].format)
        pixels = np.stack([np.asarray(image, np.uint8) for image in images])
        labels = np.array([example["label"] for example in examples], np.int32)
    # TFDS and array_record raise many kinds of error for files that are damaged.
    except Exception as error:
        raise DataError(
            f"CIFAR-10 in {builder.data_dir} cannot be read: {error}. Delete that "
            "directory to have it prepared anew, or name another: --data-dir DIR."
        ) from error
    pixels, labels = processes.gather(len(source), (pixels, labels))
    return Split(pixels, labels, encoding)
