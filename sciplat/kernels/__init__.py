"""Arrays in, arrays out: compiled loops without errors, allocations or files."""
