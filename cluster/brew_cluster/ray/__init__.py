"""Starts and stops a local Ray, and restarts lost drivers."""
