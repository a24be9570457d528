"""The loop as Prefect flows: a record of every run, retries, artifacts and events, and nothing that decides."""
