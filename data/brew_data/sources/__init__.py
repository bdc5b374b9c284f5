"""Sources of tables. A package adds one by an entry point; see brew_data.sources.base."""
