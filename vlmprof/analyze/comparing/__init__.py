"""Two runs, or two configurations, in pairs: what changed, how surely, and how many samples it takes."""
