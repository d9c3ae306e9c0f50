"""What the server answers besides dask-gateway's own API."""
