"""One live page on which sweeps are watched, compared and steered; `sweeper` hands it its acts."""
