"""Measuring instruments, one a file: clocks, energy, memory, operations, hardware limits, provenance."""
