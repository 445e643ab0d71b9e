"""Unattended sending: what is new in a folder or a list, each version once; later its receipts, and the files go."""
