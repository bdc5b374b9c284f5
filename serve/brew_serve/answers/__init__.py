"""Logs the answers to ranking requests, for the evaluation of live traffic."""
