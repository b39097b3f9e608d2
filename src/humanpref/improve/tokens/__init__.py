"""Text around prompts, and the search for what helps."""
