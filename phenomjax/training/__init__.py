"""What the loop calls: evaluators, feed, metrics, writers, goodput, watchdog, banner."""
