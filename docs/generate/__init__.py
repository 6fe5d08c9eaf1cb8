"""What makes pages and pictures of the site from the code and from bench/results/."""
