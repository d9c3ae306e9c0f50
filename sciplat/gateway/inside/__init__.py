"""What runs in a cluster's own schedulers and workers."""
