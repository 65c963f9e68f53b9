"""The job file as validated, frozen values. No torch, no ray."""
