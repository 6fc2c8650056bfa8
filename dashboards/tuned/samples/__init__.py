"""Losses by what they write: head to head by a judge, what a second judge says, and what a check finds."""
