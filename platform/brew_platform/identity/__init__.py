"""Who calls: teams, their API keys, scopes and quotas."""
