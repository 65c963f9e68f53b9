"""What a person reads: the front on the terminal."""
