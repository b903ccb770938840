"""The linear layer: plans for the product of tokens with an operator, their cost, forward and backward passes."""
