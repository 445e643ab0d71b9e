"""The command line: one file a command; everything it does is in `transfer`."""
