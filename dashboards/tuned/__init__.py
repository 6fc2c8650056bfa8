"""Losses as people use them: tuned with n trials, then trained; and what that says, in a sentence."""
