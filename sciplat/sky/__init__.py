"""The vocabulary of the sky: angles, cells, regions, coverages, frames, and what meets what."""
