"""Support: tickets about what does not work, with what the switch knows of why."""
