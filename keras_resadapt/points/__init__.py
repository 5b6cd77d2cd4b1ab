"""The operating point, and what interprets one."""
