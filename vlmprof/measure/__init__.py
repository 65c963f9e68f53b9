"""What was measured and on what, one probe a file."""
