"""sciplat: bring the code to the data. Sky catalogs and images partitioned by sky pixel, measured where they lie."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from sciplat.gateway.client.cluster import Cluster, open_cluster
    from sciplat.ingest.catalog import ingest_catalog
    from sciplat.ingest.images import ingest_images
    from sciplat.lazy.catalog import Catalog
    from sciplat.lazy.groups import crossmatch_many
    from sciplat.lazy.images import Images, open_images
    from sciplat.lazy.open import open_catalog
    from sciplat.sky.cell import Cell
    from sciplat.sky.motion import Errors, Motion
    from sciplat.sky.region import Box, Cone, Moc, Polygon

__version__ = "0.1.0"
__all__ = [
    "Box",
    "Catalog",
    "Cell",
    "Cluster",
    "Cone",
    "Errors",
    "Images",
    "Moc",
    "Motion",
    "Polygon",
    "crossmatch_many",
    "ingest_catalog",
    "ingest_images",
    "open_catalog",
    "open_cluster",
    "open_images",
]

# loaded on first use: `import sciplat` takes milliseconds
_HOMES = {
    "Box": "sciplat.sky.region",
    "Catalog": "sciplat.lazy.catalog",
    "Cell": "sciplat.sky.cell",
    "Cluster": "sciplat.gateway.client.cluster",
    "Cone": "sciplat.sky.region",
    "Errors": "sciplat.sky.motion",
    "Images": "sciplat.lazy.images",
    "Moc": "sciplat.sky.region",
    "Motion": "sciplat.sky.motion",
    "Polygon": "sciplat.sky.region",
    "crossmatch_many": "sciplat.lazy.groups",
    "ingest_catalog": "sciplat.ingest.catalog",
    "ingest_images": "sciplat.ingest.images",
    "open_catalog": "sciplat.lazy.open",
    "open_cluster": "sciplat.gateway.client.cluster",
    "open_images": "sciplat.lazy.images",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'sciplat' has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
