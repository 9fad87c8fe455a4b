"""Example programs, which use roidl's public functions only."""
