"""A simulated survey with known truth, and the report on how well it was measured."""
