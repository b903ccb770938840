"""How far bonds are cut: for one matrix, over the layers of a model, by the outputs on calibration data."""
