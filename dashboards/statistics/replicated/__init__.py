"""Losses over replicates: what each is worth once tuned, how forgiving it is, and what a design can show.

A replicate is a task of its own with its own points, tuning draw and judging draw, so that the luck of all of them is
in every interval. Pure functions of numbers.
"""
