"""What a trial produced, as columns and rows of the three tables."""
