"""What a binary holds: functions, instructions, control flow, calls, strings."""
