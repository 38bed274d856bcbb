"""What knows nothing of calls: values, checks, errors, the log, the end of the process, and forks."""
