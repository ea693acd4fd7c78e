"""`mnasnet data`: what a folder, tar or TFRecords of labeled photos would be read as."""

from __future__ import annotations

import argparse

from keras_mnasnet.cli.options import option
from keras_mnasnet.cli.output import print_json
from keras_mnasnet.cli.parsing import Parser


def add_commands(top: Parser) -> None:
    """`data`."""
    command = top.add(
        "data", "What is read of photos with labels: splits, classes, counts, files passed over. Nothing else is done.", data,
        usage="DATA [options]", example="mnasnet data flowers", needs=("DATA",),
    )  # fmt: skip
    option(command, "DATA")
    option(command, "--validation", "The default is DATA's own validation or test split, else a tenth of it.")
    option(command, "--check")


def data(arguments: argparse.Namespace) -> int:
    """Print the summary; the exit status is 1 with damaged photos."""
    from keras_mnasnet.data import ImageSet, open_splits

    def looked_through(images: ImageSet) -> ImageSet:
        return images.checked(images.count, progress=not arguments.json)

    splits = open_splits(
        arguments.data, validation=arguments.validation, test=True, check=looked_through if arguments.check else None
    )
    summary = splits.summary()
    if arguments.json:
        print_json(summary.as_json())
    else:
        print("\n".join(summary.lines()))
    return 1 if summary.left_out else 0
