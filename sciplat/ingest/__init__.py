"""Foreign formats become our stores."""
