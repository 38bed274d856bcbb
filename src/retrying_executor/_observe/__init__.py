"""Observation: the listener of an executor, and its watchdog."""
