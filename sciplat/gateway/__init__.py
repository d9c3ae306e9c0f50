"""A cluster of one's own: the server that hands out Dask clusters, and the notebook's side of it."""
