"""What an embedding of images would take: crops, bytes, and hours at a rate that is measured on a sample of the real path."""

import argparse


def add_arguments(group: "argparse._ArgumentGroup") -> None:
    """The flags of the estimate."""
    group.add_argument("--dry_run", action="store_true", help="say what it would take, and write nothing")


def run(args, model):
    raise NotImplementedError
