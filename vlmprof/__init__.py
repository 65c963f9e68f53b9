"""vlmprof: sweeps the knobs of vision-language models, and reports accuracy, latency, memory and energy."""

__version__ = "0.1.0"
