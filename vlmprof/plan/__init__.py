"""What will run: pure values, no torch, no ray, no clock."""
