"""What knows nothing of calls: values and their checks, errors, the log, the process around it all."""
