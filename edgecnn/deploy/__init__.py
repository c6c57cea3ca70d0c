"""Brings a model onto a camera over ssh, proves it there, and takes it back when it fails."""
