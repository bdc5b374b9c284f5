"""Studies: scaling laws, instruction following, needles in histories, recall of training text, and their tables."""
