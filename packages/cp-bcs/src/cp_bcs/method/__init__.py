"""The paper's network, part by part: pure functions and modules, no files."""
