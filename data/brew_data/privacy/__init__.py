"""Removal of personal data: redaction of text, opt-out, and pseudonyms of member ids."""
