"""The end of a merchant: sales stop, terminals come back, everything is paid, and what the law says is kept."""
