"""Whether and when a failed attempt is followed by another: pure decisions, no threads, no clock."""
