"""Our two stores, one cell in or out: catalogs as HATS on Parquet, images as Zarr. Nothing is computed."""
