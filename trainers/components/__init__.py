"""What packs and TRL's own loop share: settings, caches, checks, outcomes."""
