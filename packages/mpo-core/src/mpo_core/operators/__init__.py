"""The operator itself: sums, products, rounding, canonical forms, spectra, conversion, pictures."""
