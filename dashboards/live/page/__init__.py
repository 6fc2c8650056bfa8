"""The page itself: a file for each of its views."""
