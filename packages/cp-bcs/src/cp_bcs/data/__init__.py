"""Where functions and their comments come from."""
