"""xfer as a library: `await transfer.send(paths)` and `await transfer.fetch(ticket)`."""
