"""Fixtures that files of one subject share; each stands in its subject's module."""

from __future__ import annotations

from assembling import receiver
from sinks import canary, out, unprivileged
from spools import spool

__all__ = ["canary", "out", "receiver", "spool", "unprivileged"]
