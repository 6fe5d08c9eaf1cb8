"""Who resembles whom, and does that agree with what is known."""
