"""The threads that make the attempts."""
