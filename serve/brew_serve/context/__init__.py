"""Member context: profiles, histories and entities by id."""
