"""Pictures: found, read, checked for leaks, rendered, and fed to training."""
