"""`make bench`: figures against the alternatives, as ratios measured in one run."""
