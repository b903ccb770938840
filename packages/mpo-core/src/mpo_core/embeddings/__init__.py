"""The embedding layer: single rows by the digits of token ids."""
