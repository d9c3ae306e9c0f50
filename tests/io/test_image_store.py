import numpy as np
import pytest
import xarray as xr

from sciplat.errors import StoreCorrupt, StoreNotFound
from sciplat.io.image_store import create_group, group_path, open_image_store, read_window, seal_group, write_plane
from sciplat.io.storage import LocalStorage
from sciplat.sky.cell import Cell

ALL = ["science", "variance", "mask"]


@pytest.fixture
def group(tmp_path):
    """Two images of 700 x 900 with all planes."""
    storage, path = LocalStorage(tmp_path), group_path(Cell(8, 77), "abc", 700, 900)
    create_group(storage, path, (2, 700, 900), ALL, np.array([59000.5, np.nan]))
    for index in range(2):
        for plane, pixels in planes(index).items():
            write_plane(storage, path, index, plane, pixels)
    return storage, path


def planes(index):
    rng = np.random.default_rng(index)
    science = rng.normal(100, 10, (700, 900)).astype(np.float32)
    science[3, 5] = np.nan
    mask = (rng.uniform(size=(700, 900)) < 0.01).astype(np.uint32) * 2**31
    return {"science": science, "variance": np.abs(science), "mask": mask}


@pytest.mark.parametrize("bounds", [(0, 900, 0, 700), (510, 515, 500, 700), (899, 900, 0, 1)])
def test_windows_are_parts_of_the_planes(group, bounds):
    x0, x1, y0, y1 = bounds
    for index in range(2):
        window = read_window(*group, index, ALL, bounds)
        assert (window.x0, window.y0) == (x0, y0)
        for plane, pixels in planes(index).items():
            np.testing.assert_array_equal(getattr(window, plane), pixels[y0:y1, x0:x1])


def test_planes_that_are_not_asked_for_are_not_there(group):
    window = read_window(*group, 0, ["science"], (0, 10, 0, 10))
    assert window.variance is None
    assert window.mask is None


def test_each_image_and_plane_is_one_file(group):
    storage, path = group
    for plane in ALL:
        assert storage.names(f"{path}/{plane}/c") == ["0", "1"]
        assert storage.names(f"{path}/{plane}/c/1/0") == ["0"]


def test_xarray_opens_a_group(group):
    storage, path = group
    dataset = xr.open_zarr(f"{storage.url}/{path}", consolidated=False, chunks=None)
    assert dataset.science.dims == ("image", "y", "x")
    np.testing.assert_array_equal(dataset.science[1].to_numpy(), planes(1)["science"])
    np.testing.assert_array_equal(dataset.mjd.to_numpy(), [59000.5, np.nan])


def test_flipped_bits_and_cuts_are_noticed(group):
    storage, path = group
    name = f"{path}/science/c/0/0/0"
    data, whole = storage.read(name), (0, 900, 0, 700)
    expected = planes(0)["science"]
    rng = np.random.default_rng(5)
    found = 0
    for bit in rng.integers(0, 8 * len(data), 100):
        changed = bytearray(data)
        changed[bit // 8] ^= 1 << bit % 8
        storage.write(name, bytes(changed))
        try:
            np.testing.assert_array_equal(read_window(storage, path, 0, ["science"], whole).science, expected)
        except StoreCorrupt:
            found += 1
    for length in (0, 10, len(data) // 2, len(data) - 1):
        storage.write(name, data[:length])
        with pytest.raises(StoreCorrupt, match="science"):
            read_window(storage, path, 0, ["science"], whole)
    assert found > 90


def test_a_missing_shard_is_noticed(group):
    storage, path = group
    storage.remove(f"{path}/variance/c/1/0/0")
    with pytest.raises(StoreCorrupt, match="variance"):
        read_window(storage, path, 1, ALL, (0, 900, 0, 700))


def test_sealing_lists_every_file_with_its_digest(group):
    storage, path = group
    entries = seal_group(storage, path)
    on_disk = [f"../{file.relative_to(storage.root)}" for file in (storage.root / path).rglob("*") if file.is_file()]
    assert sorted(entry.path for entry in entries) == sorted(on_disk)


def test_no_image_store_is_said(tmp_path):
    with pytest.raises(StoreNotFound, match="no image store"):
        open_image_store(LocalStorage(tmp_path))
