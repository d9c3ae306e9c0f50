"""Readers of foreign tables, one file per format: what a source holds, and slices of it that are read apart."""
