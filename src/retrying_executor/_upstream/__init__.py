"""Services, and when they may be called."""
