"""The report of an evaluation: JSON, Markdown, and one HTML page."""
