import hashlib
import json
import pathlib
import shutil

import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds

from experiments.cifar10 import data
from experiments.config import ConfigError, DataError

REAL_SIZES = dict(data.SIZES)
PER_FILE = 12
TRAIN_FILES = [f"data_batch_{index}.bin" for index in range(1, 6)]
CLASSES = [*"abcdefghij"]


@pytest.fixture(scope="module")
def binary_files(tmp_path_factory):
    """Small files in CIFAR-10's binary format: their directory, and records by file."""
    root = tmp_path_factory.mktemp("archive")
    folder = root / "cifar-10-batches-bin"
    folder.mkdir()
    random = np.random.default_rng(0)
    records = {}
    for name in [*TRAIN_FILES, "test_batch.bin"]:
        labels = random.integers(0, 10, (PER_FILE, 1))
        pixels = random.integers(0, 256, (PER_FILE, 3072))
        records[name] = np.concatenate([labels, pixels], 1).astype(np.uint8)
        records[name].tofile(folder / name)
    (folder / "batches.meta.txt").write_text("\n".join(CLASSES) + "\n\n")
    return root, records


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch):
    monkeypatch.setattr(data, "SIZES", {"train": 5 * PER_FILE, "test": PER_FILE})


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    def unreachable(url, **_):
        raise requests.ConnectionError(url)

    monkeypatch.setattr(requests, "head", unreachable)


@pytest.fixture
def download(monkeypatch):
    """Replaces TFDS's download: TFDS gets the directory passed to the function."""

    def from_directory(directory):
        monkeypatch.setattr(
            requests, "head", lambda url, **_: requests.models.Response()
        )
        monkeypatch.setattr(
            requests.models.Response, "raise_for_status", lambda self: None
        )
        monkeypatch.setattr(
            tfds.download.DownloadManager,
            "download_and_extract",
            lambda self, url: str(directory),
        )

    return from_directory


@pytest.fixture
def prepared(binary_files, download, tmp_path):
    download(binary_files[0])
    data.load_cifar10(tmp_path)
    return tmp_path


def _multiset(images, labels):
    return sorted(
        hashlib.sha256(image.tobytes() + bytes([label])).hexdigest()
        for image, label in zip(images, labels, strict=True)
    )


def _checksum(images):
    digest = hashlib.sha256()
    for array in (*images.train, *images.test):
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def test_digits():
    digits = data.load_digits()
    assert digits.train.inputs.shape == (1437, 8, 8, 1)
    assert digits.test.inputs.shape == (360, 8, 8, 1)
    assert digits.train.inputs.dtype == np.uint8
    assert digits.train.inputs.max() == digits.pixel_max == 16
    for _, labels in (digits.train, digits.test):
        counts = np.bincount(labels)
        np.testing.assert_allclose(counts / counts.sum(), 0.1, atol=0.005)
    # The split is fixed: results on another split are not comparable.
    assert _checksum(digits).startswith("f40c48f790c13309")


def test_prepared_without_tensorflow_and_read_back_exactly(binary_files, prepared):
    loaded = data.load_cifar10(prepared)
    records = binary_files[1]
    train = np.concatenate([records[name] for name in TRAIN_FILES])
    test = records["test_batch.bin"]
    for split, (images, labels) in ((train, loaded.train), (test, loaded.test)):
        planes = split[:, 1:].reshape(-1, 3, 32, 32)
        expected = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
        assert images.shape == expected.shape
        assert (images.dtype, labels.dtype) == (np.uint8, np.int32)
        assert _multiset(images, labels) == _multiset(expected, split[:, 0])
    assert loaded.pixel_max == 255
    assert "stored as PNG" in loaded.description


def test_what_is_prepared_is_read_and_not_prepared_again(prepared, monkeypatch):
    first = data.load_cifar10(prepared)
    monkeypatch.setattr(
        data.Cifar10,
        "download_and_prepare",
        lambda *_, **__: pytest.fail("it was prepared again"),
    )
    assert _checksum(data.load_cifar10(prepared)) == _checksum(first)


def test_neither_network_nor_data_says_where_it_looked_and_what_to_run(tmp_path):
    with pytest.raises(DataError) as raised:
        data.load_cifar10(tmp_path / "nothing")
    message = str(raised.value)
    assert str(tmp_path / "nothing") in message
    assert "--dataset cifar10 --data-dir DIR" in message
    assert "--dataset digits" in message


def test_default_directory_is_that_of_tfds(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match="elsewhere"):
        data.load_cifar10(None)


@pytest.mark.parametrize("place", ["flag", "environment"])
def test_the_home_of_nobody_is_refused(monkeypatch, place):
    monkeypatch.setenv("TFDS_DATA_DIR", "~nosuchuser")
    with pytest.raises(ConfigError, match=r"--data-dir must be .*'~nosuchuser'"):
        data.load_cifar10(pathlib.Path("~nosuchuser") if place == "flag" else None)


def test_truncated_download_is_named_and_leaves_nothing_prepared(
    binary_files, download, tmp_path
):
    damaged = tmp_path / "damaged"
    shutil.copytree(binary_files[0], damaged)
    path = damaged / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-100])
    download(damaged)
    with pytest.raises(DataError, match=r"data_batch_3.bin is damaged; delete"):
        data.load_cifar10(tmp_path / "tfds")
    assert not list((tmp_path / "tfds").rglob("dataset_info.json"))


def test_damaged_records_are_named(prepared):
    (path,) = prepared.rglob("cifar10-test.array_record*")
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(DataError, match=r"cannot be .*read.*--data-dir DIR"):
        data.load_cifar10(prepared)


@pytest.mark.parametrize("content", [b"", b'{"name": ', b"{}", b"[]", b"\xff\xfe\0"])
def test_a_broken_description_is_named(prepared, content):
    (path,) = prepared.rglob("dataset_info.json")
    path.write_bytes(content)
    with pytest.raises(DataError) as raised:
        data.load_cifar10(prepared)
    assert str(path.parent) in str(raised.value)
    assert "--data-dir DIR" in str(raised.value)


def _edit_info(prepared, edit):
    (path,) = prepared.rglob("dataset_info.json")
    info = json.loads(path.read_text())
    edit(info)
    path.write_text(json.dumps(info))


def test_tfrecord_is_refused_with_the_way_out(prepared):
    _edit_info(prepared, lambda info: info.update(fileFormat="tfrecord"))
    with pytest.raises(DataError, match=r"TFRECORD.*--data-dir.*only array_record"):
        data.load_cifar10(prepared)


def test_a_training_shard_in_the_place_of_test_is_refused(prepared):
    (test,) = prepared.rglob("cifar10-test.array_record*")
    (train,) = prepared.rglob("cifar10-train.array_record*")
    shutil.copy(train, test)
    found = (
        r"'test' has 12 images, train_\d+ to train_\d+, instead of all 12, each once"
    )
    with pytest.raises(DataError, match=found):
        data.load_cifar10(prepared)


@pytest.mark.parametrize("split", ["train", "test"])
def test_shortened_shard_lengths_are_refused(prepared, split):
    def shorten(info):
        (part,) = (part for part in info["splits"] if part["name"] == split)
        part["shardLengths"] = ["11"]

    _edit_info(prepared, shorten)
    with pytest.raises(DataError, match=rf"{split!r} has 11 images, .*--data-dir DIR"):
        data.load_cifar10(prepared)


@pytest.mark.parametrize("label", [-1, 10])
def test_labels_that_cifar10_has_not_are_refused(
    binary_files, download, monkeypatch, tmp_path, label
):
    encode = tfds.features.ClassLabel.encode_example  # which refuses to store them
    monkeypatch.setattr(
        tfds.features.ClassLabel,
        "encode_example",
        lambda self, value: label if value == 9 else encode(self, value),
    )
    download(binary_files[0])
    with pytest.raises(DataError, match=rf"has labels in .*{label}.* not in \[0, 9"):
        data.load_cifar10(tmp_path)


SHARED = pathlib.Path(__file__).parents[2] / "shared" / "data" / "tfds"


@pytest.mark.skipif(not SHARED.exists(), reason="the real CIFAR-10 is not here")
def test_the_real_images(monkeypatch):
    monkeypatch.setattr(data, "SIZES", REAL_SIZES)
    (images, labels), _ = data._read_split(data._prepared_builder(SHARED), "test")
    assert images.shape == (10_000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(labels), 1000)
    assert 110 < images.mean() < 130
