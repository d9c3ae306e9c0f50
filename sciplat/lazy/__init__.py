"""Plans: collections and nodes that describe work; nothing runs until it is asked to."""
