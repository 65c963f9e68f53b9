"""Runs a sweep as Ray Tune trials on a cluster, or in a loop in this process."""
