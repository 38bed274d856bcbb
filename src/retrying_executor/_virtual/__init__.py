"""Who makes the attempts in virtual time: whoever waits for them."""
