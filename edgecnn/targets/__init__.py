"""What particular hardware can and cannot run."""
