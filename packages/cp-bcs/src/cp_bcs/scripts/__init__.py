"""Scripts that put summaries into other tools; ``cp-bcs export`` writes them out."""
