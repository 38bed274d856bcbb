"""Who makes the attempts: threads."""
