"""The raw dataset as the user keeps it: its description, its cases, its images, and what is wrong with them."""
