"""Tasks and the one door to Dask."""
