"""Where metrics and figures of a run go."""
