"""The training benchmark: `make bench-train` (bench/README.md tells what is measured, and how)."""
