"""What is said of the paper's four benchmarks: where they come from, whose they are, how their classes are grouped."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Benchmark:
    """A data set of the paper.

    Args:
        name: as in `deitlt data build NAME`.
        title: as people write it.
        about: what its splits are, in one or two sentences.
        homepage: of the source.
        licence: the hub's word for the source's terms; `other` where they are its own.
        licence_note: what the terms are, in a sentence.
        boundaries: where mid and tail begin in the classes sorted by frequency, as in the paper's tables.
        citation: BibTeX of the source and of the long-tailed split.
        source: the hub's name of the data set it is taken from, where there is one.

    Example:
        >>> BENCHMARKS["imagenet-lt"].boundaries
        (390, 835)
    """

    name: str
    title: str
    about: str
    homepage: str
    licence: str
    licence_note: str
    boundaries: tuple[int, int]
    citation: str
    source: str | None = None


_CIFAR_CITATION = """@techreport{krizhevsky2009learning,
  author = {Krizhevsky, Alex},
  title = {Learning Multiple Layers of Features from Tiny Images},
  institution = {University of Toronto},
  year = {2009}
}

@inproceedings{cao2019learning,
  author = {Cao, Kaidi and Wei, Colin and Gaidon, Adrien and Arechiga, Nikos and Ma, Tengyu},
  title = {Learning Imbalanced Datasets with Label-Distribution-Aware Margin Loss},
  booktitle = {Advances in Neural Information Processing Systems},
  year = {2019}
}"""

_IMAGENET_CITATION = """@article{russakovsky2015imagenet,
  author = {Russakovsky, Olga and Deng, Jia and Su, Hao and Krause, Jonathan and Satheesh, Sanjeev and Ma, Sean and
            Huang, Zhiheng and Karpathy, Andrej and Khosla, Aditya and Bernstein, Michael and Berg, Alexander C. and
            Fei-Fei, Li},
  title = {{ImageNet} Large Scale Visual Recognition Challenge},
  journal = {International Journal of Computer Vision},
  volume = {115},
  number = {3},
  pages = {211--252},
  year = {2015}
}

@inproceedings{liu2019large,
  author = {Liu, Ziwei and Miao, Zhongqi and Zhan, Xiaohang and Wang, Jiayun and Gong, Boqing and Yu, Stella X.},
  title = {Large-Scale Long-Tailed Recognition in an Open World},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2019}
}"""

_INATURALIST_CITATION = """@inproceedings{vanhorn2018inaturalist,
  author = {Van Horn, Grant and Mac Aodha, Oisin and Song, Yang and Cui, Yin and Sun, Chen and Shepard, Alex and
            Adam, Hartwig and Perona, Pietro and Belongie, Serge},
  title = {The {iNaturalist} Species Classification and Detection Dataset},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2018}
}"""

_CIFAR_TERMS = "CIFAR's authors name no licence; the images come from the withdrawn Tiny Images collection."
_CIFAR_ABOUT = (
    "The train split is a long-tailed selection of {}'s 50,000 training images, the test split is the whole one."
)

BENCHMARKS = {
    benchmark.name: benchmark
    for benchmark in (
        Benchmark(
            name="cifar10-lt",
            title="CIFAR-10-LT",
            about=_CIFAR_ABOUT.format("CIFAR-10"),
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
            licence="unknown",
            licence_note=_CIFAR_TERMS,
            boundaries=(3, 7),
            citation=_CIFAR_CITATION,
            source="uoft-cs/cifar10",
        ),
        Benchmark(
            name="cifar100-lt",
            title="CIFAR-100-LT",
            about=_CIFAR_ABOUT.format("CIFAR-100"),
            homepage="https://www.cs.toronto.edu/~kriz/cifar.html",
            licence="unknown",
            licence_note=_CIFAR_TERMS,
            boundaries=(36, 71),
            citation=_CIFAR_CITATION,
            source="uoft-cs/cifar100",
        ),
        Benchmark(
            name="imagenet-lt",
            title="ImageNet-LT",
            about="The train and validation splits are taken from the training images of ILSVRC2012 by the published "
            "lists; the test split is ILSVRC2012's validation set. Labels are in the lists' order.",
            homepage="https://www.image-net.org/",
            licence="other",
            licence_note="ImageNet's terms of access allow non-commercial research and education only, and do not "
            "allow passing the images on.",
            boundaries=(390, 835),
            citation=_IMAGENET_CITATION,
        ),
        Benchmark(
            name="inaturalist-2018",
            title="iNaturalist-2018",
            about="The train split is the competition's. The test split is its validation set (val2018), on which the "
            "paper tests: the labels of the competition's own test images are not public. Labels are the category ids.",
            homepage="https://github.com/visipedia/inat_comp/tree/master/2018",
            licence="other",
            licence_note="The competition's terms allow non-commercial research and education only; each image has the "
            "licence that its photographer chose.",
            boundaries=(842, 4543),
            citation=_INATURALIST_CITATION,
        ),
    )
}
