"""Prometheus metrics of projects, read from journal and registry at each scrape."""
