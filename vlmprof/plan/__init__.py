"""The trials of a sweep as pure values: no torch, no ray, no clock."""
