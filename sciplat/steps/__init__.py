"""Eager science on one cell: validate, allocate, call the kernel, name the columns. No files."""
