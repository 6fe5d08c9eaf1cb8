"""Embeds images: units of crops, claimed by any number of workers."""
