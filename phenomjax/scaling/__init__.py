"""What a large run will reach, known before it is run: ladders of small runs, fits, forecasts."""
