"""`make bench-data`: the data pipeline beside `datasets.map` and TRL's packing, at two sizes."""
