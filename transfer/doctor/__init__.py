"""Is everything there that a transfer needs? One finding a check, in a fixed order, within ten seconds."""

from transfer.doctor.examine import examine
from transfer.doctor.finding import Finding, Report, worst

__all__ = ["Finding", "Report", "examine", "worst"]
