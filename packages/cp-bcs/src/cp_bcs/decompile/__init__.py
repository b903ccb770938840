"""Pseudo code through angr (extra ``cp-bcs[angr]``), each function in a process with limits."""
