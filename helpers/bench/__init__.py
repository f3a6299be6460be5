"""The benchmark behind notebook 06: `python -m helpers.bench` (`make bench`)."""
