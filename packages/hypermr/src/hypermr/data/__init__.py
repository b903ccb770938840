"""Knowledge bases and questions: PathQuestion, generated hierarchies, and the user's own files."""
