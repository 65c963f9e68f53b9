"""Output for people: tables on the terminal, the watch page, notebooks."""
