"""From a matrix to an operator: sweeps over Gram matrices, canonical gauges, batches."""
