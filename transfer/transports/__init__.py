"""Routes: each file is one way for encoded frames to travel."""
