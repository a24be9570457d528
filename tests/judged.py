"""What a monitor says of rows that are at hand as a whole."""

from trimtab.monitor import Finding, Monitor, Sample, case_of


def judged(monitor: Monitor, reference: Sample, current: Sample, alpha: float) -> Finding:
    """Fit, summarize and check."""
    return monitor.check(case_of(monitor, reference, current, alpha))
