"""Virtual time, in which the threads that wait for attempts make them."""
