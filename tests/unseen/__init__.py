"""Messages as a stranger would make them who has the descriptions of the hosts and nothing of ours: an encoder of its own, a table per dialect."""
