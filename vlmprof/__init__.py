"""vlmprof: sweeps a vision-language model's knobs and says what each setting costs and what it is worth."""

__version__ = "0.1.0"
