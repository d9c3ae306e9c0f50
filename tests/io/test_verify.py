import numpy as np
import pyarrow as pa
import pytest

from sciplat.io.catalog_writer import CatalogWriter
from sciplat.io.image_store import create_group, group_path, seal_group, write_plane
from sciplat.io.publish import Manifest
from sciplat.io.storage import open_storage
from sciplat.io.verify import verify_files
from sciplat.sky.cell import Cell

PROPERTIES = {"position": ["ra", "dec"], "kind": "sources"}


@pytest.fixture(params=["local", "memory"])
def storage(request, tmp_path):
    return open_storage(tmp_path / "s" if request.param == "local" else f"memory://{tmp_path.name}")


def flip(storage, path, place):
    data = bytearray(storage.read(path))
    data[place] ^= 16
    storage.write(path, bytes(data))


@pytest.fixture
def catalog(storage, monkeypatch):
    monkeypatch.setattr("sciplat.io.catalog_writer.ROW_GROUP", 100)
    rng = np.random.default_rng(0)
    columns = {"_healpix_29": np.arange(350), "ra": rng.uniform(size=350), "dec": rng.uniform(size=350)}
    writer = CatalogWriter.begin(storage, PROPERTIES)
    report = writer.cells.write(Cell(0, 0), pa.table(columns), 1000)
    return writer.publish(pa.table(columns).schema, [report])


def test_missing_and_cut_files_are_named(catalog):
    storage, (name, other) = catalog.storage, [file.path for file in catalog.manifest.files[:2]]
    assert verify_files(storage, catalog.manifest) == []
    storage.remove(name)
    storage.write(other, storage.read(other)[:-1])
    missing, cut = verify_files(storage, catalog.manifest)
    assert missing == f"{name}: missing"
    assert cut.startswith(f"{other}: ")
    assert "bytes instead of" in cut


def test_the_row_group_and_the_footer_are_named(catalog):
    storage, file = catalog.storage, catalog.manifest.files[0]
    flip(storage, file.path, -12)
    assert verify_files(storage, catalog.manifest) == [f"{file.path}: content differs from its digest, in its footer"]
    flip(storage, file.path, -12)
    flip(storage, file.path, (file.size - file.footer) // 2)  # of four groups the second
    (line,) = verify_files(storage, catalog.manifest)
    assert line.endswith((", in row group 1", ", in row group 2"))


def test_the_chunk_of_a_shard_is_named(storage):
    path = group_path(Cell(0, 0), "w", 600, 1100)
    create_group(storage, path, (1, 600, 1100), ["science"], np.zeros(1))
    pixels = np.random.default_rng(0).normal(size=(600, 1100)).astype(np.float32)
    write_plane(storage, path, 0, "science", pixels)
    table = storage.child("images")
    manifest = Manifest(1, "w", None, "v", {}, seal_group(storage, path))
    assert verify_files(table, manifest) == []
    flip(storage, f"{path}/science/c/0/0/0", 1000)
    (line,) = verify_files(table, manifest)
    assert line.startswith(f"../{path}/science/c/0/0/0: content differs")
    assert line.count("(") == 1
    assert ", in chunk (" in line
