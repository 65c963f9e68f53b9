"""The job file: what it says, validated and frozen. No torch, no ray."""
