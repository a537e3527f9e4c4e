"""`deitlt data`: build the paper's data sets, or look at one's own before training."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from deitlt_hf.cli.console import OneLineParser

NAMES = ("cifar10-lt", "cifar100-lt", "imagenet-lt", "inaturalist-2018")
DESCRIPTION = """Build one of the paper's data sets as Parquet files with a card and a picture of its class counts."""
EPILOG = """CIFAR comes from the hub, or from --data_dir DIR with its Parquet files. ImageNet-LT needs --data_dir, a
tree of ILSVRC2012 (train/, val/); iNaturalist-2018 needs --data_dir, the directory with train_val2018/. Their lists or
JSON files lie there, or in --lists_dir."""


def run(argv: Sequence[str]) -> None:
    """Run `deitlt data build` or `deitlt data inspect` with the arguments in `argv`.

    Raises:
        DeiTLTError: whatever building or inspecting refuses.

    Example:
        >>> run(["build", "cifar10-lt", "--out", "cifar10-lt"])  # doctest: +SKIP
    """
    parser = OneLineParser(prog="deitlt data", description="Build the paper's data sets, or inspect any.")
    parser.add_argument("action", choices=("build", "inspect"), help="`deitlt data ACTION --help` says more")
    if argv[:1] == ["inspect"]:
        from deitlt_hf.cli import data_inspect

        data_inspect.run(argv[1:])
        return
    parser.parse_args(argv[:1])
    _build(argv[1:])


def _build(argv: Sequence[str]) -> None:
    parser = _build_parser()
    args = parser.parse_args(argv)
    if args.out is None and args.push_to_hub is None:
        parser.error("pass --out DIR, --push_to_hub REPO, or both")
    if args.private and args.push_to_hub is None:
        parser.error("--private goes with --push_to_hub REPO")
    is_cifar = args.name.startswith("cifar")
    of_cifar = {"imbalance_factor": args.imbalance_factor, "profile": args.imbalance_profile, "seed": args.seed}
    of_others = {"lists_dir": args.lists_dir, "check_lists": False if args.no_check else None}
    ours, not_ours = (of_cifar, of_others) if is_cifar else (of_others, of_cifar)
    if any(value is not None for value in not_ours.values()):
        flags = ("--lists_dir and --no_check go", "--imbalance_factor, --imbalance_profile and --seed go")[not is_cifar]
        which = "imagenet-lt and inaturalist-2018" if is_cifar else "cifar10-lt and cifar100-lt"
        parser.error(f"{flags} with {which}, not with {args.name}")

    import datasets

    from deitlt_hf.cards.dataset_card import BuiltDataset
    from deitlt_hf.data.builders import BUILDERS, build
    from deitlt_hf.data.loading import class_counts
    from deitlt_hf.files import check_is_free
    from deitlt_hf.hub.dataset_directory import push_dataset, write_dataset
    from deitlt_hf.hub.repository import check_hub

    datasets.disable_progress_bars()
    if args.out is not None:
        check_is_free(args.out)
    if args.push_to_hub is not None:
        args.push_to_hub = check_hub(args.push_to_hub, kind="dataset", private=args.private)
        note = BUILDERS[args.name].BENCHMARK.licence_note
        if not args.private and not is_cifar:  # said before hours of building; CIFAR's note is no restriction
            print(f"deitlt data: anyone will see these images; {note} --private keeps them to you", file=sys.stderr)
    settings = {name: value for name, value in ours.items() if value is not None}
    builder = BUILDERS[args.name](data_dir=args.data_dir, **settings)
    splits = build(builder)
    built = BuiltDataset(
        benchmark=builder.BENCHMARK,
        splits=splits,
        class_counts=class_counts(splits["train"]),
        # On the hub, a path on this machine is of no use.
        embedded=is_cifar or args.embed or args.push_to_hub is not None,
        selection=_selection(builder.config) if is_cifar else "",
    )
    with tempfile.TemporaryDirectory() as scratch:
        directory = args.out or Path(scratch) / args.name
        write_dataset(built, directory, location=args.push_to_hub)
        _print_summary(built)
        if args.out is not None:
            print(f"saved to {args.out}")
        if args.push_to_hub is not None:
            print(f"pushed to {push_dataset(directory, args.push_to_hub, args.private)}")


def _selection(config: Any) -> str:
    return f"imbalance factor {config.imbalance_factor:g}, profile {config.profile}, seed {config.seed}"


def _print_summary(built: Any) -> None:
    counts = built.class_counts
    sizes = ", ".join(f"{name} {split.num_rows}" for name, split in built.splits.items())
    print(
        f"{built.benchmark.title}: {sizes} images, {len(counts)} classes, largest {max(counts)}, "
        f"smallest {min(counts)} training images{'' if built.embedded else '; images are referenced, not copied'}"
    )


def _build_parser() -> OneLineParser:
    parser = OneLineParser(prog="deitlt data build", description=DESCRIPTION, epilog=EPILOG, allow_abbrev=False)
    parser.add_argument("name", metavar="NAME", choices=NAMES, help=", ".join(NAMES))
    parser.add_argument("--out", metavar="DIR", type=Path, help="directory to make")
    parser.add_argument("--push_to_hub", "--push-to-hub", metavar="REPO", help="data set on the hub; embeds the images")
    parser.add_argument("--private", action="store_true", help="make it a private one")
    parser.add_argument("--data_dir", "--data-dir", metavar="DIR", type=Path, help="where the source's images are")
    parser.add_argument(
        "--lists_dir", "--lists-dir", metavar="DIR", type=Path, help="where its lists are, if elsewhere"
    )
    parser.add_argument(
        "--imbalance_factor",
        "--imbalance-factor",
        metavar="F",
        type=float,
        help="of CIFAR: largest class count / smallest (default: 100)",
    )
    parser.add_argument(
        "--imbalance_profile", "--imbalance-profile", choices=("exp", "step"), help="of CIFAR (default: exp)"
    )
    parser.add_argument("--seed", type=int, help="of CIFAR: seed of the selection (default: 0)")
    parser.add_argument("--embed", action="store_true", help="copy the images into the files, byte by byte")
    parser.add_argument(
        "--no_check", "--no-check", action="store_true", help="take lists that are not the published ones"
    )
    return parser
