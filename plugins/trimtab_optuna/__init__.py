"""Optuna's samplers for the search."""
