"""What a call is, and which is next; no lock but a call's own latch."""
