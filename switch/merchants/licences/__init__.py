"""Licences that end: reminders before, limits and suspension after, and the renewed one that lifts them."""
