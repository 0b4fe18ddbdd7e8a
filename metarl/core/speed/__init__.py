"""How the same sums are made fast: chunks, staging, compiling, processes."""
