"""Candidates and parts of windows on the workers of Dask."""
