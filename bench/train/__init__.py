"""The training benchmark, `make bench-train`. bench/README.md describes the measurements."""
