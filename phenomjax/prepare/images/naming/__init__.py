"""What paths and names of files say of the images in them."""
