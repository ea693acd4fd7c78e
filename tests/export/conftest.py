import pytest

from keras_mnasnet import MnasNet


@pytest.fixture(scope="session")
def bundled():
    """The A1 that ships with the package: it takes 32 x 32 photos of ten classes."""
    return MnasNet("a1", weights="cifar10")


@pytest.fixture(scope="session")
def pictures():
    """120 smooth random pictures `[N, 32, 32, 3]`, pixels 0..255."""
    from keras_mnasnet.export.verify import drawn_images

    return drawn_images(120, 32, 32, 3, seed=7)
