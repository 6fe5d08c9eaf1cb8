"""Parts of banks, chosen by what is known of their images or sequences."""
