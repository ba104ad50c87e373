"""Devices in shops: their life, activation, health, parameters and software. A till with its numbers is the directory's `terminal`."""
