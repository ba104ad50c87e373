"""Files that people send, judged by their own bytes: scans and evidence, and a hand's signature. Pure."""
