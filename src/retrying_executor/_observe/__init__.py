"""Who looks on: listeners and the watchdog."""
