"""Who sends a request: tokens, hubs, groups, and what is written down of what they do."""
