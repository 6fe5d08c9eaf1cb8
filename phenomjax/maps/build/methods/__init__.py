"""Methods that take batches out of profiles: functions of arrays."""
