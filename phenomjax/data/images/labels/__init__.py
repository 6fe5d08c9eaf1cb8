"""What the images of banks are labelled with, and the splits of labelled images."""
