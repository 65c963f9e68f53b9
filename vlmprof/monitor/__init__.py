"""Monitoring of a running sweep: live state, Ray metrics and their Grafana dashboard, experiment loggers."""
