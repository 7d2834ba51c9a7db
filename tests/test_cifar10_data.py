import hashlib
import json
import pathlib
import shutil

import jax
import numpy as np
import pytest
import requests
import tensorflow_datasets as tfds

from experiments.cifar10 import data, task, tfds_cifar10
from experiments.comparison import processes
from experiments.comparison.config import DataError

PER_FILE = 12
TRAIN_FILES = [f"data_batch_{index}.bin" for index in range(1, 6)]
CLASSES = [*"abcdefghij"]


@pytest.fixture(scope="module")
def binary_files(tmp_path_factory):
    """CIFAR-10's binary format, small: its directory, and the records by file."""
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
def no_network(monkeypatch):
    def unreachable(url, **_):
        raise requests.ConnectionError(url)

    monkeypatch.setattr(requests, "head", unreachable)


@pytest.fixture
def download(monkeypatch):
    """Lets TFDS download: what it gets is the directory that the function is given."""

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
    tfds_cifar10.prepared_builder(tmp_path)
    return tmp_path


def _multiset(images, labels):
    return sorted(
        hashlib.sha256(image.tobytes() + bytes([label])).hexdigest()
        for image, label in zip(images, labels, strict=True)
    )


def test_digits():
    digits = data.load("digits", None)
    assert digits.train_inputs.shape == (1437, 8, 8, 1)
    assert digits.test_inputs.shape == (360, 8, 8, 1)
    assert digits.train_inputs.dtype == np.uint8
    assert digits.train_inputs.max() == task.PIXEL_MAX["digits"] == 16
    for labels in (digits.train_labels, digits.test_labels):
        counts = np.bincount(labels)
        np.testing.assert_allclose(counts / counts.sum(), 0.1, atol=0.005)
    # The split is fixed: results of another one are not comparable.
    assert digits.checksum.startswith("f40c48f790c13309")


def test_prepared_without_tensorflow_and_read_back_exactly(binary_files, prepared):
    loaded = data.load("cifar10", prepared)
    records = binary_files[1]
    train = np.concatenate([records[name] for name in TRAIN_FILES])
    test = records["test_batch.bin"]
    for split, images, labels in (
        (train, loaded.train_inputs, loaded.train_labels),
        (test, loaded.test_inputs, loaded.test_labels),
    ):
        planes = split[:, 1:].reshape(-1, 3, 32, 32)
        expected = np.ascontiguousarray(planes.transpose(0, 2, 3, 1))
        assert images.shape == expected.shape
        assert images.dtype == np.uint8
        assert _multiset(images, labels) == _multiset(expected, split[:, 0])
    assert loaded.classes == len(CLASSES)
    assert "stored as PNG" in loaded.description


def test_what_is_prepared_is_read_and_not_prepared_again(prepared, monkeypatch):
    first = data.load("cifar10", prepared)
    monkeypatch.setattr(
        tfds_cifar10.Cifar10,
        "download_and_prepare",
        lambda *_, **__: pytest.fail("it was prepared again"),
    )
    assert data.load("cifar10", prepared).checksum == first.checksum


def test_each_of_many_processes_reads_its_share(prepared, monkeypatch):
    builder = tfds_cifar10.prepared_builder(prepared)
    whole = tfds_cifar10.read_split(builder, "train")
    read = []

    class Source:
        """Notes what is read."""

        def __init__(self, source):
            self.source = source

        def __len__(self):
            return len(self.source)

        def __getitem__(self, index):
            read.append(index)
            return self.source[index]

    as_data_source = builder.as_data_source
    monkeypatch.setattr(
        builder, "as_data_source", lambda **options: Source(as_data_source(**options))
    )
    monkeypatch.setattr(jax, "process_count", lambda: 3)
    monkeypatch.setattr(processes, "gather", lambda size, part: part)
    parts = []
    for index in range(3):
        monkeypatch.setattr(jax, "process_index", lambda index=index: index)
        parts.append(tfds_cifar10.read_split(builder, "train"))
        assert len(parts[-1].labels) in (
            len(whole.labels) // 3,
            -(-len(whole.labels) // 3),
        )
    assert read == list(range(len(whole.labels)))  # each by one, and by no other
    images = np.concatenate([part.images for part in parts])
    np.testing.assert_array_equal(images, whole.images)


def test_neither_network_nor_data_says_where_it_looked_and_what_to_run(tmp_path):
    with pytest.raises(DataError) as raised:
        data.load("cifar10", tmp_path / "nothing")
    message = str(raised.value)
    assert str(tmp_path / "nothing") in message
    assert "--dataset cifar10 --data-dir DIR" in message
    assert "--dataset digits" in message


def test_default_directory_is_that_of_tfds(tmp_path, monkeypatch):
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "elsewhere"))
    with pytest.raises(DataError, match="elsewhere"):
        data.load("cifar10", None)


def test_truncated_download_is_named_and_leaves_nothing_prepared(
    binary_files, download, tmp_path
):
    damaged = tmp_path / "damaged"
    shutil.copytree(binary_files[0], damaged)
    path = damaged / "cifar-10-batches-bin" / "data_batch_3.bin"
    path.write_bytes(path.read_bytes()[:-100])
    download(damaged)
    with pytest.raises(DataError, match=r"data_batch_3.bin is damaged"):
        data.load("cifar10", tmp_path / "tfds")
    assert not list((tmp_path / "tfds").rglob("dataset_info.json"))


def test_damaged_records_are_named(prepared):
    (path,) = prepared.rglob("cifar10-test.array_record*")
    path.write_bytes(b"\0" * path.stat().st_size)
    with pytest.raises(DataError, match=r"cannot be read.*--data-dir DIR"):
        data.load("cifar10", prepared)


def test_tfrecord_is_refused_with_the_way_out(prepared):
    (path,) = prepared.rglob("dataset_info.json")
    info = json.loads(path.read_text())
    path.write_text(json.dumps(info | {"fileFormat": "tfrecord"}))
    with pytest.raises(DataError, match=r"not stored as array_record.*--data-dir"):
        data.load("cifar10", prepared)


SHARED = pathlib.Path(__file__).parents[2] / "shared" / "data" / "tfds"


@pytest.mark.skipif(not SHARED.exists(), reason="the real CIFAR-10 is not here")
def test_the_real_images():
    test = tfds_cifar10.read_split(tfds_cifar10.prepared_builder(SHARED), "test")
    assert test.images.shape == (10_000, 32, 32, 3)
    np.testing.assert_array_equal(np.bincount(test.labels), 1000)
    assert 110 < test.images.mean() < 130
