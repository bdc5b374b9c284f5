"""From records to token ids: suites, templates, budgets, history, compiler, tokenizer, and the bundle of them."""
