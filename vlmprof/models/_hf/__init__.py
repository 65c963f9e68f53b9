"""What the family ``transformers_vlm`` is made of: introspection, vision budgets, the loaded model."""
