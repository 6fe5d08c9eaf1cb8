"""Where wells lie on their plates, and what position alone does to profiles."""
