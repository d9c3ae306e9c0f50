"""The user's side: open a cluster, and ask a gateway."""
