"""Whether and when a failed attempt is followed by another: pure, and read off exceptions alone."""
