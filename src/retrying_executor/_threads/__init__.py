"""The threads that make the attempts: their roster, the life of each, and how a core calls and stops them."""
