"""Servers on this machine for `xfer up`: NATS, SeaweedFS and a broker, started, watched and stopped."""
