"""Whole models: which modules become layers, ties, frozen cores, optimizer state, files."""
