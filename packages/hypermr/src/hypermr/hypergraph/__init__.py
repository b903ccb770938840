"""Hypergraphs of questions and of knowledge: n-grams of tokens, and walks from the topic entity."""
