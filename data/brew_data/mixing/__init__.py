"""Decides how often each document of several sources is used."""
