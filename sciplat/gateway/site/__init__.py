"""The site file: its schema, its values, and whether a machine suits it."""
