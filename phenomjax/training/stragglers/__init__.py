"""Which process, or device, all others wait for: what each tells of its steps, and the rule."""
