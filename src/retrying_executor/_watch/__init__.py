"""Progress in a terminal."""
