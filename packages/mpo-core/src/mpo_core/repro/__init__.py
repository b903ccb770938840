"""Reproduction floor: experiment files, runner, records, comparison with the paper, report, tasks, command line."""
