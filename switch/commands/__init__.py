"""The verbs of the command line beyond starting: each file adds some to `cli`, and prints what it is told as JSON."""
