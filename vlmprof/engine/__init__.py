"""Token generation: the greedy loop and the engines that run its decode steps."""
