"""Another acquirer: a planned change of where a merchant's sales go, in steps, with its way back."""
