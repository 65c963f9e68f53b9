"""A sweep as others see it: live state, metrics of Ray, experiment loggers."""
