"""The registry's state: rows, tables, budgets, signature and token checks."""
