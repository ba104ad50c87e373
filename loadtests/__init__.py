"""Load runs, the benchmark and a reference terminal: they speak HTTP to the switch and import nothing of it."""
