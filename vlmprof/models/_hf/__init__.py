"""Implementation of the family ``transformers_vlm``: introspection, vision budgets, the loaded model."""
