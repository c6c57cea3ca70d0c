"""Trained models that ship: each one file, with what was measured of it."""
