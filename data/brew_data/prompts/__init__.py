"""From records to token ids: suites, history, the compiler, chat and tokenizer."""
