"""The paper's tables as plans: which runs a table is made of, and what its figures say. No models, no ray."""
