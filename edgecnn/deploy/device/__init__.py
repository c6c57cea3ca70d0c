"""Runs on the device with nothing but its own Python: slots, proof, probation and the way back."""
