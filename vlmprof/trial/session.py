"""What one timing session gave: generations in blocks, and what was learnt beside them. Values only."""

from __future__ import annotations
