"""Plans a study before anything runs: its runs, its disk use, how runs share devices."""
