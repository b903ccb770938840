"""Summaries of a binary's functions: drafts, how far to trust them, and the files that show them."""
