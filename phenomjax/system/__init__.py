"""What any program asks of its machine: errors, log, files, locks, processes, versions."""
